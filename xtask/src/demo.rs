//! `cargo xtask demo`: builds what the story needs and tells it, on this machine or in a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::steps::{cache, cargo, programs, run, step};
use crate::{cluster, tools};

/// What the demo's Python agent imports.
const PACKAGES: [&str; 1] = ["requests==2.34.2"];

/// `demo [--cluster]`
pub(crate) fn demo(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => on_this_machine(),
        [flag] if flag == "--cluster" => in_the_cluster(),
        [other, ..] => bail!("`cargo xtask demo` knows `--cluster` and not `{other}`"),
    }
}

fn in_the_cluster() -> Result<()> {
    if !cluster::existing() {
        step("tools", tools::install_for_cluster)?;
    }
    let packages = ["--package", "kybernis-cli", "--package", "kybernis-broker", "--package", "kybernis-demo"];
    step("build", || run(cargo(["build"]).args(packages)))?;
    let programs = programs("debug")?;
    run(Command::new(programs.join("kybernis-demo")).arg("--cluster").arg(&programs))
}

fn on_this_machine() -> Result<()> {
    step("tools", tools::install)?;
    let python = step("python", python)?;
    step("build", || run(&mut cargo(["build", "--package", "kybernis-cli", "--package", "kybernis-demo"])))?;
    let programs = programs("debug")?;
    let mut demo = Command::new(programs.join("kybernis-demo"));
    demo.arg(programs.join("kybernis")).arg(python).arg(cache().join("demo"));
    run(&mut demo)
}

/// An interpreter of our own with the agent's packages; made once.
fn python() -> Result<PathBuf> {
    let folder = cache().join("demo-python");
    let python = folder.join("bin/python");
    let done = folder.join(PACKAGES.join("-"));
    if done.exists() {
        println!("already there");
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES))?;
    std::fs::write(&done, "").with_context(|| format!("cannot write {}", shown(&done)))?;
    Ok(python)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
