//! `cargo xtask demo`: builds what the story needs and tells it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::steps::{cache, cargo, run, step, target};
use crate::tools;

/// What the demo's Python agent imports.
const PACKAGES: [&str; 1] = ["requests==2.34.2"];

pub(crate) fn demo() -> Result<()> {
    step("tools", tools::install)?;
    let python = step("python", python)?;
    step("build", || run(&mut cargo(["build", "--package", "kybernis-cli", "--package", "kybernis-demo"])))?;
    let programs = target().join("debug");
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
