//! The chart, as people install it: today's, and an earlier one.

use std::path::PathBuf;
use std::process::Output;

use anyhow::Result;
use kybernis_cluster::Cluster;

use crate::command::{heard, said, soon};
use crate::world::{objects, root};

/// The namespace that Kybernis is installed in.
pub(crate) const NAMESPACE: &str = "kybernis-system";
/// How long `helm` may wait for what it installs.
const PATIENCE: &str = "--timeout=180s";

/// Which chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// An earlier one: the chart as it was in commit 279c064, as version 0.0.9, with today's programs under an older image tag.
    Earlier,
    /// Today's.
    Today,
}

impl Release {
    fn chart(self) -> PathBuf {
        match self {
            Self::Earlier => objects().join("kybernis-0.0.9.tgz"),
            Self::Today => root().join("charts/kybernis"),
        }
    }

    /// The tag of its images.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Earlier => "e2e-0.0.9",
            Self::Today => "e2e",
        }
    }

    /// Installs it, or upgrades to it, and waits until no pod of another release is left: those answer until they end. `build` says which
    /// programs are in the images, whose names stay; `values` come after the usual ones.
    pub(crate) fn install(self, cluster: &Cluster, build: &str, values: &[&str]) -> Result<()> {
        let mut helm = cluster.helm(4);
        helm.args(["upgrade", "kybernis"]).arg(self.chart());
        helm.args(["--install", "--create-namespace", "--namespace", NAMESPACE, "--wait", PATIENCE]);
        helm.arg("--values").arg(objects().join("values.yaml")).arg("--set-string").arg(format!("image.tag={}", self.tag()));
        for component in ["ledger", "operator", "webhook"] {
            helm.arg("--set-string").arg(format!("{component}.podAnnotations.build={build}"));
        }
        helm.args(values.iter().flat_map(|value| ["--set", value]));
        said(&mut helm)?;
        soon("only this release's pods are left", || {
            let images = "--output=jsonpath={range .items[*]}{.spec.containers[0].image}{\"\\n\"}{end}";
            let images = said(cluster.kubectl().args(["get", "pods", "--namespace", NAMESPACE, images]))?;
            Ok(images.lines().all(|image| image.ends_with(&format!(":{}", self.tag()))).then_some(()))
        })
    }
}

/// Removes it, and waits until its pods are gone.
pub(crate) fn uninstall(cluster: &Cluster) -> Result<()> {
    said(cluster.helm(4).args(["uninstall", "kybernis", "--namespace", NAMESPACE, "--wait", PATIENCE])).map(drop)
}

/// Runs the release's own tests by this helm, and hands on what it said.
pub(crate) fn test(cluster: &Cluster, major: u8) -> Result<Output> {
    heard(cluster.helm(major).args(["test", "kybernis", "--namespace", NAMESPACE, PATIENCE]))
}
