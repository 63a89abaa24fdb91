//! What governing costs, as ratios: the same load through a minimal hyper proxy and through the sidecar, in the same run, on
//! the same machine. Wires the roles, each a process of its own so that its CPU and memory can be told apart.

mod awake;
mod baseline;
mod body;
mod disk;
mod governed;
mod load;
mod measure;
mod process;
mod stage;
mod table;
mod tls;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Measure everything and print the table
    Run(RunArgs),
    /// The far side: a hyper server, in plain text and over TLS
    Upstream(FolderArgs),
    /// The baseline of reads: a minimal hyper forward proxy
    Forward,
    /// The baseline of intercepted reads: the same, terminating and originating TLS
    Intercept(FolderArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The `kybernis` program, built with the same flags as this one
    #[arg(long)]
    kybernis: PathBuf,
    /// The page whose table is to be replaced
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
    // What is not measured stays out of the way: one thread, woken where it last ran. The baselines are what anybody would write.
    let mut runtime = match cli.role {
        Role::Run(_) | Role::Upstream(_) => tokio::runtime::Builder::new_current_thread(),
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
        Role::Run(args) => {
            let table = measure::all(&args).await?;
            table.print();
            if let Some(page) = &args.page {
                table.write(page)?;
            }
            return Ok(if table.blocks() { ExitCode::from(BLOCKED) } else { ExitCode::SUCCESS });
        }
    }
    Ok(ExitCode::SUCCESS)
}
