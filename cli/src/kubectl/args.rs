//! The plug-in's command line: what `kybernis` reads and decides on a laptop, here of a cluster, with `kubectl`'s own flags.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::connect::ClusterArgs;
use super::decide::{DecideArgs, ResolveArgs};
use super::explain::ExplainArgs;
use super::gates::GatesArgs;
use super::version::VersionArgs;
use crate::read::{OutputArgs, WhichEffects};

const EXAMPLES: &str = "Examples:
  kubectl kyb gates -n trading                              what waits for a person
  kubectl kyb approve GATE -n trading --reason 'checked'    let it go
  kubectl kyb runs -n trading                               which runs there were
  kubectl kyb show RUN -n trading                           what one of them did
  kubectl kyb effects --in-doubt -n trading                 whose outcome nobody knows
  kubectl kyb explain-pod POD -n trading                    is it governed, and if not, why";

/// Side effects of agents in a cluster, at most once each, and on record.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-kyb",
    bin_name = "kubectl kyb",
    version,
    after_help = EXAMPLES,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Subcommands,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(super) enum Subcommands {
    /// List what waits for a person
    Gates(GatesArgs),
    /// Let a call go that waits for approval
    Approve(DecideArgs),
    /// Refuse a call that waits for approval
    #[command(after_help = "Example:\n  kubectl kyb deny GATE -n trading --reason 'above what the desk may spend'")]
    Deny(DecideArgs),
    /// Say what became of an effect that is in doubt
    Resolve(ResolveArgs),
    /// List runs
    Runs(RunsArgs),
    /// Show a run as a waterfall
    Show(ShowArgs),
    /// List side effects
    Effects(EffectsArgs),
    /// Say whether a pod is governed, how, and if not, why
    ExplainPod(ExplainArgs),
    /// Print which version this is, and which the cluster's
    Version(VersionArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

/// `kubectl kyb runs`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kubectl kyb runs -n trading -o wide")]
pub(super) struct RunsArgs {
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// `kubectl kyb show`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kubectl kyb show 3f2a -n trading        # the beginning of a run's id is enough")]
pub(super) struct ShowArgs {
    /// The run, or the beginning of its id
    pub(super) run: String,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// `kubectl kyb effects`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kubectl kyb effects --in-doubt -n trading")]
pub(super) struct EffectsArgs {
    #[command(flatten)]
    pub(super) which: WhichEffects,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// `kubectl kyb completion`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "For kubectl's own completion, let kubectl_complete-kyb on the PATH be a link to this program.\n\nExample:\n  \
                        kubectl kyb completion bash > ~/.local/share/bash-completion/completions/kubectl-kyb")]
pub(super) struct CompletionArgs {
    /// The shell
    pub(super) shell: Shell,
}

/// What is left of `KIND/NAME`, as `kubectl get -o name` writes it.
pub(super) fn bare_name(given: &str) -> &str {
    given.rsplit_once('/').map_or(given, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("kubectl-kyb").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_lines_that_are_promised_parse_and_what_contradicts_itself_does_not() {
        for line in [
            "approve GATE -n trading --reason checked",
            "-n trading approve GATE --reason checked",
            "approve gate.kybernis.io/GATE --wait=false",
            "approve GATE --dry-run=server --timeout 1m30s",
            "deny GATE --context prod --kubeconfig /k",
            "resolve GATE --executed --reason seen",
            "resolve GATE --not-executed --reason seen",
            "gates -A -o wide",
            "gates --all-namespaces --all",
            "runs -n trading",
            "show RUN -n trading -o json",
            "effects --in-doubt --run r -n trading -o yaml",
            "explain-pod POD -n trading",
            "explain-pod pod/POD --release-namespace other -o json",
            "approve GATE --as ada --as-group desk --as-group all",
            "version -o json",
            "completion zsh",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
        for line in [
            "",
            "approve",
            "approve GATE --wait maybe",
            "approve GATE --dry-run=always",
            "approve GATE --timeout 15",
            "resolve GATE --reason seen",
            "resolve GATE --executed --not-executed --reason seen",
            "resolve GATE --executed",
            "runs -o xml",
            "runs -A",
            "explain-pod",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_subcommand_has_an_example() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands_mut() {
            let name = command.get_name().to_owned();
            let help = command.render_help().to_string();
            let (usage, examples) = help.split_once("Example").unwrap();
            assert!(usage.contains(&format!("Usage: kubectl kyb {name}")), "{usage}");
            assert!(examples.contains(&format!("kubectl kyb {name}")), "{name}: {examples}");
        }
    }

    #[test]
    fn objects_may_be_named_as_kubectl_prints_names() {
        for (given, name) in [("g-1", "g-1"), ("gate/g-1", "g-1"), ("gate.kybernis.io/g-1", "g-1")] {
            assert_eq!(bare_name(given), name);
        }
    }
}
