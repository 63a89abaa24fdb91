//! `kubectl kyb`: the same tool against a cluster. `kubectl` runs whatever is called `kubectl-kyb` on the PATH; that is this very
//! program under another name, since the second one would weigh as much as the first.

mod args;
mod complete;
mod connect;
mod decide;
mod error;
mod explain;
mod gates;
mod ledger;
mod receipt;
mod release;
mod seen;
mod version;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use self::args::{Cli, CompletionArgs, Subcommands};
use self::connect::Cluster;
use crate::read::{list_effects, list_runs, show_run};
use crate::say::{self, tell};

/// What `kubectl` looks for.
const PLUGIN: &str = "kubectl-kyb";
/// What it looks for when somebody presses Tab.
const COMPLETER: &str = "kubectl_complete-kyb";

/// Runs this process as `kubectl`'s plug-in if that is its name.
pub(crate) fn run_plugin() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    let program = words.next()?;
    let name = Path::new(&program).file_name()?;
    if name == OsStr::new(PLUGIN) {
        return Some(plugin());
    }
    (name == OsStr::new(COMPLETER)).then(|| {
        let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        match say::result(&complete::answer(&words)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    })
}

fn plugin() -> ExitCode {
    let cli = Cli::parse();
    let done = match crate::one_thread() {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            tell!("{line}");
            ExitCode::FAILURE
        }
    }
}

/// Does it, or gives the line that says why not.
async fn run(cli: Cli) -> Result<(), String> {
    if let Subcommands::Completion(args) = &cli.command {
        return completion(args).map_err(|error| error::told(&error, ""));
    }
    let connected = cli.cluster.connect().await.map_err(|error| error::told(&error, ""));
    if let Subcommands::Version(args) = &cli.command {
        return version::version(connected.as_ref().map_err(Clone::clone), args).await.map_err(|error| error::told(&error, ""));
    }
    let cluster = connected?;
    dispatch(&cluster, cli.command).await.map_err(|error| error::told(&error, &cluster.server))
}

async fn dispatch(cluster: &Cluster, command: Subcommands) -> anyhow::Result<()> {
    match command {
        Subcommands::Gates(args) => gates::gates(cluster, &args).await,
        Subcommands::Approve(args) => decide::approve(cluster, &args).await,
        Subcommands::Deny(args) => decide::deny(cluster, &args).await,
        Subcommands::Resolve(args) => decide::resolve(cluster, &args).await,
        Subcommands::Runs(args) => list_runs(cluster, &format!("no runs in namespace {} yet", cluster.namespace), args.output).await,
        Subcommands::Show(args) => show_run(cluster, &args.run, args.output).await,
        Subcommands::Effects(args) => list_effects(cluster, &args.which, args.output).await,
        Subcommands::ExplainPod(args) => explain::explain_pod(cluster, &args).await,
        Subcommands::Version(args) => version::version(Ok(cluster), &args).await,
        Subcommands::Completion(args) => completion(&args),
    }
}

fn completion(args: &CompletionArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), PLUGIN, &mut script);
    Ok(say::result(&String::from_utf8_lossy(&script))?)
}
