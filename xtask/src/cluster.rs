//! `cargo xtask cluster`: builds the program that runs the test cluster, and becomes it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::steps::{cargo, run, step, target};
use crate::tools;

/// What only the start needs installed.
const STARTS: [&str; 2] = ["up", "test"];

/// Whether the environment names a cluster that is not ours.
pub(crate) fn is_elsewhere() -> bool {
    std::env::var_os("KYB_E2E_CLUSTER").is_some_and(|value| !value.is_empty())
}

pub(crate) fn cluster(arguments: Vec<String>) -> Result<()> {
    let chore = arguments.first().map(String::as_str).unwrap_or_default();
    if STARTS.contains(&chore) && !is_elsewhere() {
        step("tools", tools::install_for_cluster)?;
    }
    if chore == "test" {
        // One at a time: each starts clusters, and a machine has only so much memory.
        // The scenarios put these into images.
        run(&mut cargo(["build", "--package", "kybernis-cli", "--package", "kybernis-broker"]))?;
        let packages = ["--package", "kybernis-cluster", "--package", "kybernis-pods"];
        return run(cargo(["test"]).args(packages).args(["--", "--include-ignored", "--test-threads=1", "--nocapture"]));
    }
    // Quiet, since what kubectl prints may be read by a program.
    run(&mut cargo(["build", "--quiet", "--package", "kybernis-cluster"]))?;
    if chore == "load" && arguments.iter().any(|image| image == "kybernis") {
        run(&mut cargo(["build", "--package", "kybernis-cli"]))?;
    }
    let mut command = Command::new(target().join("debug/kybernis-cluster"));
    command.args(arguments);
    Err(command.exec()).context("cannot start the program that was just built")
}
