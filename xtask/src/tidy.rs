//! `cargo xtask tidy`: format, spelling, licences, generated files, lints, and what each crate may know.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::{cargo, root, run, step};
use crate::tools;

/// Crates that `core` must never list: its rules take time and entropy as arguments and do no input or output.
const IMPURE: [&str; 10] = ["tokio", "hyper", "tonic", "kube", "axum", "rusqlite", "rand", "getrandom", "reqwest", "time"];

/// Crates that never know one another: what they share goes through `core` or `proto`.
const STRANGERS: [(&str, &str); 14] = [
    ("ledger", "kybernis-sidecar"),
    ("sidecar", "kybernis-ledger"),
    ("ledger", "kybernis-crds"),
    ("sidecar", "kybernis-crds"),
    ("webhook", "kybernis-ledger"),
    ("webhook", "kybernis-sidecar"),
    ("ledger", "kybernis-webhook"),
    ("sidecar", "kybernis-webhook"),
    ("operator", "kybernis-ledger"),
    ("operator", "kybernis-sidecar"),
    ("operator", "kybernis-webhook"),
    ("ledger", "kybernis-operator"),
    ("sidecar", "kybernis-operator"),
    ("webhook", "kybernis-operator"),
];

pub(crate) fn tidy() -> Result<()> {
    checks()?;
    step("licences and sources", licences)?;
    step("generated files", || run(&mut generated_files()))?;
    step("clippy", || run(&mut cargo(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])))
}

/// The tests that compare the generated files with the types.
pub(crate) fn generated_files() -> Command {
    cargo(["test", "--quiet", "--package", "kybernis-crds", "--package", "kybernis-rules", "the_published"])
}

/// The checks that need no build, and no tool that has to be built.
pub(crate) fn checks() -> Result<()> {
    step("format", || run(&mut cargo(["fmt", "--all", "--check"])))?;
    step("crate purity", purity)?;
    step("spelling", || run(Command::new(tools::typos()?).args(["--format", "brief"]).current_dir(root())))
}

/// Licences, banned crates and sources; advisories are left to whoever can reach their database: `cargo deny check advisories`.
fn licences() -> Result<()> {
    let deny = tools::cargo_deny()?;
    run(Command::new(deny).args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]).current_dir(root()))
}

fn purity() -> Result<()> {
    for name in IMPURE {
        forbid("core", name)?;
    }
    STRANGERS.iter().try_for_each(|(folder, other)| forbid(folder, other))
}

fn forbid(folder: &str, dependency: &str) -> Result<()> {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let dependencies = text.split("[dev-dependencies]").next().unwrap_or_default();
    let lists = |line: &str| line.strip_prefix(dependency).is_some_and(|rest| rest.starts_with([' ', '.', '=']));
    if dependencies.lines().any(lists) {
        bail!("{folder}/Cargo.toml lists {dependency}, which {folder} must not know (see ARCHITECTURE.md)");
    }
    Ok(())
}
