//! `kybernis-matrix`: runs the fault matrix and prints it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use kybernis_scenarios::kit::{self, Kit};
use kybernis_scenarios::manifests::Manifests;
use kybernis_scenarios::matrix::{self, Column};
use kybernis_scenarios::run::{Capture, Stage};
use kybernis_scenarios::table;

/// Cells between two lines of progress.
const TELL_EVERY: usize = 100;

/// Every fault × real clients, bare and under `kybernis run`, held against what was declared.
#[derive(Parser)]
#[command(after_help = "EXAMPLES
  kybernis-matrix --bare
  kybernis-matrix --kybernis target/debug/kybernis --only 'drop, executed' --only java")]
struct Args {
    /// The binary under test
    #[arg(long, value_name = "FILE", required_unless_present_any = ["bare", "install"])]
    kybernis: Option<PathBuf>,
    /// Only clients on their own
    #[arg(long)]
    bare: bool,
    /// Only install the clients
    #[arg(long)]
    install: bool,
    /// Only cells whose name contains all of these
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Cells side by side
    #[arg(long, default_value_t = 6)]
    jobs: usize,
    /// Where clients are kept [default: $XDG_CACHE_HOME/kybernis or ~/.cache/kybernis]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let kit = Kit::install(&args.cache.unwrap_or_else(kit::cache)).context("the clients could not be installed")?;
    if args.install {
        return Ok(ExitCode::SUCCESS);
    }
    let kybernis = args.kybernis.filter(|_| !args.bare);
    let mut columns = vec![Column::Bare];
    if kybernis.is_some() {
        let governed = |capture| Manifests::ALL.map(|manifests| Column::Governed(capture, manifests));
        columns.extend([Capture::Redirect, Capture::Cooperative].into_iter().flat_map(governed));
    }
    let cells = matrix::cells(&columns, |cell| args.only.iter().all(|text| cell.to_string().contains(text.as_str())));

    let folder = tempfile::Builder::new().prefix("kybernis-matrix-").tempdir()?;
    let stage = Stage::set(kit, kybernis, folder.path())?;
    let start = Instant::now();
    println!("{} cells, {} side by side", cells.len(), args.jobs);
    let ended = AtomicUsize::new(0);
    let done = matrix::run(&stage, &cells, args.jobs, |at, cell| {
        let ended = ended.fetch_add(1, Ordering::Relaxed) + 1;
        if ended.is_multiple_of(TELL_EVERY) {
            println!("{ended} of {} cells, {:.0} s", cells.len(), start.elapsed().as_secs_f64());
        }
        for wrong in cell.mismatches() {
            println!("order-{at}: {}: {wrong}", cell.cell);
        }
    })?;

    println!("\n{}\n{}", table::render(&done), table::totals(&done));
    let wrong = done.iter().filter(|cell| !cell.mismatches().is_empty()).count();
    println!("{} cells as declared, {wrong} not, in {:.0} s", done.len() - wrong, start.elapsed().as_secs_f64());
    if wrong > 0 {
        println!("what they left lies in {}", folder.keep().display());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
