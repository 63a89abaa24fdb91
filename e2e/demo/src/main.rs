//! The story of `cargo xtask demo`, told on real sockets: a Python agent with its own retry loop, a broker that misbehaves,
//! and after each act what the far side executed.

mod acts;
mod books;
mod cluster;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::stage::Stage;

/// `kybernis-demo KYBERNIS PYTHON FOLDER`: the program to show, an interpreter with `requests`, and where data may be left; or
/// `kybernis-demo --cluster PROGRAMS`: where the programs lie that go into images.
fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match run(&paths) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("\nSomething was executed more or less often than intended: see the tables above.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(paths: &[PathBuf]) -> Result<bool> {
    if let [flag, programs] = paths
        && flag.as_os_str() == "--cluster"
    {
        return cluster::play(programs);
    }
    let [kybernis, python, folder] = paths else {
        anyhow::bail!("usage: kybernis-demo KYBERNIS PYTHON FOLDER | kybernis-demo --cluster PROGRAMS")
    };
    let began = Instant::now();
    let mut stage = Stage::set(kybernis, python, folder).context("the stage could not be set")?;
    acts::play(&mut stage)?;
    stage.close(began.elapsed());
    Ok(stage.books.all_as_intended())
}
