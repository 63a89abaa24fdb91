//! `cargo xtask tidy`: format, lints, and what each crate may know.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::steps::{cargo, root, run, step};

/// Crates that `core` must never list: its rules take time and entropy as arguments and do no input or output.
const IMPURE: [&str; 10] = ["tokio", "hyper", "tonic", "kube", "axum", "rusqlite", "rand", "getrandom", "reqwest", "time"];

/// Crates that never know one another: what they share goes through `core` or `proto`.
const STRANGERS: [(&str, &str); 4] =
    [("ledger", "kybernis-sidecar"), ("sidecar", "kybernis-ledger"), ("ledger", "kybernis-crds"), ("sidecar", "kybernis-crds")];

pub(crate) fn tidy() -> Result<()> {
    checks()?;
    step("clippy", || run(&mut cargo(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])))
}

/// The checks that need no build.
pub(crate) fn checks() -> Result<()> {
    step("format", || run(&mut cargo(["fmt", "--all", "--check"])))?;
    step("crate purity", purity)
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
