//! The command line: one subcommand for each thing that a person wants.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::capture::pod::CaptureArgs;
use crate::dev::{DevArgs, EnvArgs};
use crate::read::{DecideArgs, EffectsArgs, GatesArgs, ResolveArgs, RunsArgs, ShowArgs};
use crate::roles::ledger::LedgerArgs;
use crate::roles::operator::OperatorArgs;
use crate::roles::sidecar::SidecarArgs;
use crate::roles::webhook::WebhookArgs;
use crate::run::RunArgs;
use crate::token::TokenArgs;

const EXAMPLES: &str = "Examples:
  kybernis run -- python agent.py                 an unchanged program, with each side effect once
  kybernis run --policies ./policies -- ./agent   the same, under policies
  kybernis show RUN                               what it did
  kybernis gates                                  what waits for a person
  kybernis approve GATE --reason 'checked'        let it go
  kybernis effects --in-doubt                     whose outcome nobody knows
  kybernis check ./policies                       do these manifests hold?";

/// Side effects of programs, at most once each, and on record.
#[derive(Debug, Parser)]
#[command(name = "kybernis", version, after_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Subcommands,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    /// Run a program under Kybernis
    Run(RunArgs),
    /// Keep ledger and proxy running for programs that are started elsewhere
    Dev(DevArgs),
    /// Print what such a program needs in its environment
    Env(EnvArgs),
    /// List runs
    Runs(RunsArgs),
    /// Show a run as a waterfall
    Show(ShowArgs),
    /// List side effects
    Effects(EffectsArgs),
    /// List what waits for a person
    Gates(GatesArgs),
    /// Let a call go that waits for approval
    Approve(DecideArgs),
    /// Refuse a call that waits for approval
    #[command(after_help = "Example:\n  kybernis deny GATE --reason 'above what the desk may spend'")]
    Deny(DecideArgs),
    /// Say what became of an effect that is in doubt
    Resolve(ResolveArgs),
    /// Say whether the manifests of a folder hold
    Check(CheckArgs),
    /// The ledger as a process of its own
    Ledger(LedgerArgs),
    /// The sidecar as a process of its own
    Sidecar(SidecarArgs),
    /// A cluster's operator
    Operator(OperatorArgs),
    /// A cluster's admission webhook
    Webhook(WebhookArgs),
    /// Redirect a pod's connections to its sidecar
    #[command(after_help = "Runs in an init container with NET_ADMIN before the sidecar starts.\n\nExample:\n  \
                            kybernis capture --proxy-uid 7400 --redirect-port 7401 --dns-port 7453 --skip-outbound-ports 5432,9000-9010")]
    Capture(CaptureArgs),
    /// Make a token for a sidecar that is started by hand
    Token(TokenArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

/// `kybernis check`.
#[derive(Debug, Args)]
#[command(after_help = "Exits with 1 if anything does not hold.\n\nExample:\n  kybernis check ./policies")]
pub(crate) struct CheckArgs {
    /// A folder of manifests
    pub(crate) dir: PathBuf,
}

/// `kybernis completion`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kybernis completion bash > ~/.local/share/bash-completion/completions/kybernis")]
pub(crate) struct CompletionArgs {
    /// The shell
    pub(crate) shell: Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_command_is_its_own() {
        let parse = |args: &[&str]| Cli::try_parse_from(args);
        for args in [
            &["kybernis", "run", "--", "curl", "--data", "x"][..],
            &["kybernis", "run", "--label", "a=b", "--capture", "cooperative", "curl", "--data", "x"],
        ] {
            let Subcommands::Run(run) = parse(args).unwrap().command else { panic!("{args:?}") };
            assert_eq!(run.command(), ["curl", "--data", "x"], "{args:?}");
        }
        for args in [
            &["kybernis", "run"][..],
            &["kybernis", "run", "--capture", "Strict", "--", "true"],
            &["kybernis", "resolve", "e-1", "--reason", "r"],
            &["kybernis", "resolve", "e-1", "--executed", "--not-executed", "--reason", "r"],
            &["kybernis", "resolve", "e-1", "--executed"],
            &["kybernis", "resolve", "e-1", "--executed", "--reason", ""],
            &["kybernis", "runs", "-o", "xml"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn every_subcommand_has_an_example() {
        let mut cli = Cli::command();
        for command in cli.get_subcommands_mut() {
            let name = command.get_name().to_owned();
            let help = command.render_help().to_string();
            let (_, examples) = help.split_once("Example").unwrap();
            assert!(examples.contains(&format!("kybernis {name}")), "{name}: {examples}");
        }
    }
}
