//! `cargo xtask cluster`: builds the program that runs the test cluster, and becomes it. `cargo xtask test` has its scenarios from
//! here, too.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::steps::{self, cache, cargo, programs, run, step, target};
use crate::tools;

/// What only the start needs installed.
const STARTS: [&str; 3] = ["up", "test", "matrix"];
/// Picked out of the workspace, so that they are built with the features of everything else. One at a time: each starts clusters or
/// disturbs the one there is, and a machine has only so much memory.
const SCENARIOS: [&str; 8] =
    ["test", "--workspace", "--no-fail-fast", "--test=pods", "--", "--include-ignored", "--test-threads=1", "--nocapture"];
/// The tests of our own cluster itself, and of the chart, which want programs that are built with the cluster's.
const OWN: [&str; 2] = ["--test=life", "--test=helm"];
/// All scenarios may take this long, on a machine that is slow and busy.
const SCENARIOS_SECONDS: &str = "3600";
/// For charts that are rendered without a cluster: helm built from its module does not know for which Kubernetes it was made.
pub(crate) const KUBERNETES: &str = "--kube-version=v1.36.3";
/// Names a cluster that is there already.
const EXISTING: &str = "KYB_E2E_CLUSTER";

pub(crate) fn cluster(arguments: Vec<String>) -> Result<()> {
    let chore = arguments.first().map(String::as_str).unwrap_or_default();
    if STARTS.contains(&chore) && !existing() {
        step("tools", tools::install_for_cluster)?;
    }
    if chore == "test" || chore == "matrix" {
        // The scenarios put these into images.
        run(&mut cargo(["build", "--workspace", "--bins"]))?;
        let only = arguments.get(1).map(String::as_str).unwrap_or_default();
        return if chore == "test" { run(&mut tests()) } else { run(cargo(SCENARIOS).env("KYB_E2E_MATRIX", only)) };
    }
    build()?;
    if chore == "load" && arguments.iter().any(|image| image == "kybernis") {
        run(&mut cargo(["build", "--package", "kybernis-cli"]))?;
    }
    Err(program()?.args(arguments).exec()).context("cannot start the program that was just built")
}

/// Whether the environment names a cluster that is not ours.
pub(crate) fn existing() -> bool {
    std::env::var_os(EXISTING).is_some_and(|value| !value.is_empty())
}

/// Builds the program that runs the cluster; quietly, since what it prints may be read by a program.
pub(crate) fn build() -> Result<()> {
    run(&mut cargo(["build", "--quiet", "--package", "kybernis-cluster"]))
}

pub(crate) fn program() -> Result<Command> {
    Ok(Command::new(programs("debug")?.join("kybernis-cluster")))
}

/// Before anything is built: what makes a cluster impossible and can be seen at a glance.
pub(crate) fn possible() -> Result<()> {
    if existing() {
        return Ok(());
    }
    let user = Command::new("id").arg("--user").output().context("cannot start id")?;
    if user.stdout.trim_ascii() != b"0" {
        bail!(
            "the cluster scenarios need root, or {EXISTING}=existing and KUBECONFIG for a cluster that is there already; \
             `cargo xtask test --no-cluster` leaves them out"
        );
    }
    Ok(())
}

/// Once the cluster's program is built: whether it could start one here.
pub(crate) fn check() -> Result<()> {
    run(program()?.arg("check")).context("no cluster can be had here; `cargo xtask test --no-cluster` leaves its scenarios out")
}

fn tests() -> Command {
    let mut cargo = cargo([]);
    let (select, rest) = SCENARIOS.split_at(3);
    cargo.args(select).args(OWN.iter().filter(|_| !existing())).args(rest);
    cargo
}

/// Runs the cluster's own tests and the scenarios, and hands every line to `see`. Returns whether all passed.
///
/// They have a cluster of their own in a folder of its own, whatever else runs on the machine: one for daily work keeps what is in it,
/// and what is in it changes no verdict. It ends with this process, even where that is killed.
pub(crate) fn scenarios(see: impl FnMut(&str)) -> Result<bool> {
    let tests = tests();
    let mut with = program()?;
    with.args(["with", "--lifeline", "--within", SCENARIOS_SECONDS, "--"]).arg(tests.get_program()).args(tests.get_args());
    with.env("KYB_CLUSTER_FOLDER", cache().join("cluster/scenarios")).env("CARGO_TARGET_DIR", target()).current_dir(steps::root());
    // A group of its own: interrupted with us, it could not end its cluster; it does so when its input ends.
    with.process_group(0).stdin(Stdio::piped());
    steps::watch(&mut with, see)
}
