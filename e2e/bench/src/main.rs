//! What governing costs, as ratios: the same load through a minimal server of hyper's and through the product, in the same run, on
//! the same machine. Wires the roles, each a process of its own so that its CPU and memory can be told apart.

mod admit;
mod api_server;
mod awake;
mod baseline;
mod body;
mod cluster;
mod disk;
mod governed;
mod ledger;
mod load;
mod measure;
mod population;
mod process;
mod reviews;
mod stage;
mod table;
mod tls;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::table::Table;

/// Exit status when a gate is missed by so much that it blocks.
const BLOCKED: u8 = 1;
/// Exit status when the run itself failed.
const FAILED: u8 = 2;

/// Speed, as ratios against baselines of the same run.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Measure everything and print the tables
    Run(RunArgs),
    /// The far side: a hyper server, in plain text and over TLS
    Upstream(FolderArgs),
    /// The baseline of reads: a minimal hyper forward proxy
    Forward,
    /// The baseline of intercepted reads: the same, terminating and originating TLS
    Intercept(FolderArgs),
    /// The baseline of admission: a webhook that allows everything
    Admit(FolderArgs),
    /// The API server that the webhook and the operator work with
    ApiServer(FolderArgs),
    /// The ledger that the operator works with, and its sidecars
    Ledger(FolderArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The `kybernis` program, built with the same flags as this one
    #[arg(long)]
    kybernis: PathBuf,
    /// The page whose tables are to be replaced
    #[arg(long)]
    page: Option<PathBuf>,
    /// Only these parts; may be repeated
    #[arg(long, value_enum)]
    only: Vec<measure::Part>,
    /// Where the ledger's journal and the probe of the disk lie; a temporary folder in the working directory by default
    #[arg(long)]
    data: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct FolderArgs {
    /// Where the certificates lie
    #[arg(long)]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // What is not measured stays out of the way: one thread, woken where it last ran. The baselines are what anybody would write, but
    // that of admission has one thread because the webhook has.
    let mut runtime = match cli.role {
        Role::Run(_) | Role::Upstream(_) | Role::ApiServer(_) | Role::Ledger(_) | Role::Admit(_) => {
            tokio::runtime::Builder::new_current_thread()
        }
        Role::Forward | Role::Intercept(_) => tokio::runtime::Builder::new_multi_thread(),
    };
    match runtime.enable_all().build().map_err(Into::into).and_then(|runtime| runtime.block_on(run(cli.role))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn run(role: Role) -> anyhow::Result<ExitCode> {
    match role {
        Role::Upstream(args) => upstream::serve(&args.dir).await?,
        Role::Forward => baseline::forward().await?,
        Role::Intercept(args) => baseline::intercept(&args.dir).await?,
        Role::Admit(args) => admit::serve(&args.dir).await?,
        Role::ApiServer(args) => api_server::serve(&args.dir).await?,
        Role::Ledger(args) => ledger::serve(&args.dir).await?,
        Role::Run(args) => {
            let mut blocks = false;
            // One by one: what is measured stays, whatever becomes of the rest.
            let mut done = |table: &Table| {
                table.print();
                blocks |= table.blocks();
                args.page.as_ref().map_or(Ok(()), |page| table.write(page))
            };
            measure::all(&args, &mut done).await?;
            return Ok(if blocks { ExitCode::from(BLOCKED) } else { ExitCode::SUCCESS });
        }
    }
    Ok(ExitCode::SUCCESS)
}
