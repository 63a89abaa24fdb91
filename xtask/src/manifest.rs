//! `cargo xtask manifest`: the chart as one plain manifest for `kubectl apply`, without a release of helm's.

use std::io;

use anyhow::{Result, bail};

use crate::cluster;
use crate::steps::{root, run};

/// The namespace, which no chart makes.
const NAMESPACE: &str = "kybernis-system";

/// Prints it. `more` is for helm: `--values FILE`, `--set KEY=VALUE`.
pub(crate) fn manifest(more: impl Iterator<Item = String>) -> Result<()> {
    cluster::build()?;
    // Where helm has to be built first, that is told aside.
    run(cluster::program()?.args(["helm", "version", "--short"]).stdout(io::stderr()))?;
    let mut helm = cluster::program()?;
    helm.args(["helm", "template", "kybernis"]).arg(root().join("charts/kybernis"));
    helm.args(["--namespace", NAMESPACE, "--skip-tests", cluster::KUBERNETES]).args(more);
    let rendered = helm.stderr(io::stderr()).output()?;
    if !rendered.status.success() {
        bail!("helm ended with {}", rendered.status);
    }
    print!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n{}", String::from_utf8_lossy(&rendered.stdout));
    Ok(())
}
