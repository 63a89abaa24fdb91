//! `cargo xtask images`: the images of an installation, as archives that a registry or a node takes.

use anyhow::{Context as _, Result};

use crate::cluster;
use crate::steps::{cargo, programs, root, run, step, target};

/// What the chart puts before their names, unless told otherwise.
const REGISTRY: &str = "ghcr.io/kybernis";

/// Builds the programs as they are released, and puts them into `folder`; into the target folder where none is named.
pub(crate) fn images(folder: Option<String>) -> Result<()> {
    step("build", || run(&mut cargo(["build", "--release", "--package", "kybernis-cli"])))?;
    cluster::build()?;
    let folder = folder.map_or_else(|| target().join("images"), |folder| root().join(folder));
    step("images", || {
        let mut images = cluster::program()?;
        images.args(["images", "--registry", REGISTRY, "--tag", version()?.as_str(), "--programs"]).arg(programs("release")?).arg(&folder);
        run(&mut images)
    })
}

/// What the chart asks for: its own application's version.
fn version() -> Result<String> {
    let chart = std::fs::read_to_string(root().join("charts/kybernis/Chart.yaml"))?;
    let line = chart.lines().find_map(|line| line.strip_prefix("appVersion:")).context("the chart has no appVersion")?;
    Ok(line.trim().trim_matches('"').to_owned())
}
