//! The programs: `kybernis`, which has every role, and `kybernis-sidecar`, which has the two that run in other people's pods. Both wire
//! a command line to what it does, and nothing else.

// They panic where nobody reads any more: `say` has what does not.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

mod api;
mod args;
mod capture;
mod command;
mod dev;
mod exit;
mod handover;
mod home;
mod in_pod;
mod kubectl;
mod read;
mod roles;
mod run;
mod say;
mod signals;
mod summary;
mod supervise;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use tokio::runtime::{Builder, Runtime};

use crate::args::{CheckArgs, Cli, Subcommands};
use crate::in_pod::InPod;
use crate::roles::sidecar::SidecarArgs;
use crate::run::BadManifests;
use crate::say::tell;

/// A proxied call is some hundred small allocations, and static builds come with an allocator that is slow at those.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The program `kybernis`.
#[must_use]
pub fn kybernis() -> ExitCode {
    // First of all: a process of several threads cannot enter a user namespace.
    if let Some(code) = capture::redirect::run_helper().or_else(exit::run_helper).or_else(kubectl::run_plugin) {
        return code;
    }
    let command = Cli::parse().command;
    let of_its_own = match &command {
        // Beside COMMAND's own code: what `kybernis` itself fails with.
        Subcommands::Run(_) => exit::FAILED,
        _ => 1,
    };
    ended(dispatch(command), of_its_own)
}

/// The program `kybernis-sidecar`: what an injected pod runs, and small, since every node fetches it. In its image it has the name
/// `kybernis`, and the roles their usual command lines.
#[must_use]
pub fn sidecar() -> ExitCode {
    let done = match InPod::parse() {
        InPod::Sidecar(args) => sidecar_role(args),
        InPod::Capture(args) => capture::pod::capture(&args).map(|()| ExitCode::SUCCESS),
    };
    ended(done, 1)
}

/// Says what failed, if anything did.
fn ended(done: anyhow::Result<ExitCode>, failed: u8) -> ExitCode {
    done.unwrap_or_else(|error| {
        tell!("kybernis: {error:#}");
        ExitCode::from(if error.is::<BadManifests>() { 1 } else { failed })
    })
}

fn dispatch(command: Subcommands) -> anyhow::Result<ExitCode> {
    let done = |(): ()| ExitCode::SUCCESS;
    match command {
        Subcommands::Run(args) => one_thread()?.block_on(run::run(args)),
        Subcommands::Dev(args) => one_thread()?.block_on(dev::dev(args)),
        Subcommands::Env(args) => dev::env(args),
        Subcommands::Runs(args) => one_thread()?.block_on(read::runs(args)).map(done),
        Subcommands::Show(args) => one_thread()?.block_on(read::show(args)).map(done),
        Subcommands::Effects(args) => one_thread()?.block_on(read::effects(args)).map(done),
        Subcommands::Gates(args) => one_thread()?.block_on(read::gates(args)).map(done),
        Subcommands::Approve(args) => one_thread()?.block_on(read::approve(args)).map(done),
        Subcommands::Deny(args) => one_thread()?.block_on(read::deny(args)).map(done),
        Subcommands::Resolve(args) => one_thread()?.block_on(read::resolve(args)).map(done),
        Subcommands::Check(args) => check(&args),
        Subcommands::Ledger(args) => one_thread()?.block_on(roles::ledger::run(args)).map(done),
        Subcommands::Sidecar(args) => sidecar_role(args),
        Subcommands::Operator(args) => one_thread()?.block_on(roles::operator::run(args)).map(done),
        Subcommands::Webhook(args) => one_thread()?.block_on(roles::webhook::run(args)).map(done),
        Subcommands::Capture(args) => capture::pod::capture(&args).map(done),
        Subcommands::Token(args) => token::token(args).map(done),
        Subcommands::Completion(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "kybernis", &mut script);
            Ok(say::result(&String::from_utf8_lossy(&script)).map(done)?)
        }
    }
}

fn sidecar_role(args: SidecarArgs) -> anyhow::Result<ExitCode> {
    threads(args.threads)?.block_on(roles::sidecar::run(args)).map(|()| ExitCode::SUCCESS)
}

/// For what mostly waits; and for the ledger, whose one writer commits on the thread that takes the calls in: what comes in
/// meanwhile shares the next commit.
fn one_thread() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// For what works on so many threads. One alone wakes no other, which is most of what a small call costs.
fn threads(count: u8) -> std::io::Result<Runtime> {
    if count == 1 { one_thread() } else { Builder::new_multi_thread().worker_threads(count.into()).enable_all().build() }
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = kybernis_crds::check(&args.dir);
    say::result(&format!("{report}\n"))?;
    Ok(ExitCode::from(u8::from(!report.is_ok())))
}
