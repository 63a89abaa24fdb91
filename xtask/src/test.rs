//! `cargo xtask test`: everything that must hold before a change lands, with one closing line of totals.

use std::process::Command;

use anyhow::{Result, bail};

use crate::steps::{cargo, programs, step, watch};
use crate::{cluster, tidy, tools};

/// Tests counted over all suites.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Totals {
    /// Adds the matrix's closing line: `1572 cells as declared, 0 not, in 700 s`.
    fn add_cells(&mut self, line: &str) {
        let Some((good, rest)) = line.split_once(" cells as declared, ") else { return };
        let bad = rest.split_once(" not, in ").map(|(bad, _)| bad.parse::<u64>());
        if let (Ok(good), Some(Ok(bad))) = (good.parse::<u64>(), bad) {
            self.passed += good;
            self.failed += bad;
        }
    }

    /// Adds tests that had been skipped, and were run after all.
    fn make_up(&mut self, later: &Self) {
        self.passed += later.passed;
        self.failed += later.failed;
        self.skipped = self.skipped.saturating_sub(later.passed + later.failed);
    }

    /// Adds a suite's closing line: `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.trim_start().strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else { return };
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let (Some(Ok(count)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

/// What `cargo xtask test` is told.
pub(crate) fn test(arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut cluster = true;
    for argument in arguments {
        match argument.as_str() {
            "--no-cluster" => cluster = false,
            other => bail!("`cargo xtask test` has no `{other}`; it may be told `--no-cluster`"),
        }
    }
    run(cluster)
}

fn run(with_cluster: bool) -> Result<()> {
    if with_cluster {
        cluster::possible()?;
    }
    step("tools", || tools::install().and_then(|()| if with_cluster { tools::install_for_cluster() } else { Ok(()) }))?;
    step("tidy", tidy::checks)?;
    step("build", || crate::steps::run(&mut cargo(["build", "--workspace", "--all-targets"])))?;
    if with_cluster {
        step("a cluster can be had", cluster::check)?;
    }
    let mut totals = Totals::default();
    let mut green = step("tests", || {
        let mut command = cargo(["test", "--workspace", "--no-fail-fast"]);
        watch(&mut command, |line| totals.add(line))
    })?;
    if with_cluster {
        let mut made_up = Totals::default();
        green &= step("cluster scenarios", || cluster::scenarios(|line| made_up.add(line)))?;
        totals.make_up(&made_up);
    }
    let matrix = step("fault matrix", || {
        let programs = programs("debug")?;
        let mut command = Command::new(programs.join("kybernis-matrix"));
        command.arg("--kybernis").arg(programs.join("kybernis"));
        watch(&mut command, |line| totals.add_cells(line))
    })?;
    println!("\n{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    if !green || !matrix || totals.failed > 0 {
        bail!("not everything passed");
    }
    if totals.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}
