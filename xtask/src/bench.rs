//! `cargo xtask bench`: builds the product and its baselines with the same flags, and measures one against the other.

use std::process::Command;

use anyhow::{Result, bail};

use crate::steps::{cargo, programs, root, run, step};

/// The page that keeps the tables.
const PAGE: &str = "docs/benchmarks.md";

/// What can be measured alone; together they make one table.
const PARTS: [&str; 4] = ["reads", "tls", "effects", "memory"];
/// What can be measured alone, and has a table of its own.
const WHOLES: [&str; 2] = ["webhook", "operator"];

/// Measures everything and renews the page; or `only` one thing, and the page stays unless that is a whole table.
pub(crate) fn bench(only: Option<&str>) -> Result<()> {
    if let Some(part) = only.filter(|part| !PARTS.contains(part) && !WHOLES.contains(part)) {
        bail!("bench has no part {part:?}; it has {}, {}", PARTS.join(", "), WHOLES.join(", "));
    }
    let build = || run(&mut cargo(["build", "--release", "--package", "kybernis-cli", "--package", "kybernis-bench"]));
    step("build", build)?;
    let programs = programs("release")?;
    let mut bench = Command::new(programs.join("kybernis-bench"));
    // The folder of the run's data lies where the programs do: on a disk, and not in memory as /tmp may.
    bench.arg("run").arg("--kybernis").arg(programs.join("kybernis")).arg("--data").arg(&programs);
    if let Some(part) = only {
        bench.args(["--only", part]);
    }
    if only.is_none_or(|part| WHOLES.contains(&part)) {
        bench.arg("--page").arg(root().join(PAGE));
    }
    step("bench", || match bench.status()?.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("a gate is missed by more than half as much again"),
        _ => bail!("the bench did not come to its end"),
    })
}
