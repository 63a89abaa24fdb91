//! The chart, as people install it: today's, and the same stamped as an earlier release.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
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
    /// An earlier one: today's chart and programs, under an older version and an older image tag.
    Earlier,
    /// Today's.
    Today,
}

impl Release {
    /// The chart's version, where it is not the chart's own.
    const fn version(self) -> Option<&'static str> {
        match self {
            Self::Earlier => Some("0.0.9"),
            Self::Today => None,
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
        let folder = tempfile::tempdir()?;
        let mut helm = cluster.helm(4);
        helm.args(["upgrade", "kybernis"]).arg(self.chart(folder.path())?);
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

    fn chart(self, folder: &Path) -> Result<PathBuf> {
        let today = root().join("charts/kybernis");
        let Some(version) = self.version() else { return Ok(today) };
        let stamped = folder.join("kybernis");
        copy(&today, &stamped)?;
        let file = stamped.join("Chart.yaml");
        let text = fs::read_to_string(&file).context("the chart has no Chart.yaml")?;
        let stamp = |line: &str| match line.split_once(": ") {
            Some((key @ ("version" | "appVersion"), _)) => format!("{key}: {version}\n"),
            _ => format!("{line}\n"),
        };
        let older: String = text.lines().map(stamp).collect();
        ensure!(older != text, "the chart's version is {version} already");
        fs::write(&file, older)?;
        Ok(stamped)
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

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_chart_differs_in_its_versions_alone() {
        let folder = tempfile::tempdir().unwrap();
        let read = |chart: &Path, file: &str| fs::read_to_string(chart.join(file)).unwrap();
        let (earlier, today) = (Release::Earlier.chart(folder.path()).unwrap(), Release::Today.chart(folder.path()).unwrap());
        let (older, newer) = (read(&earlier, "Chart.yaml"), read(&today, "Chart.yaml"));
        let differ: Vec<&str> = older.lines().zip(newer.lines()).filter(|(a, b)| a != b).map(|(a, _)| a).collect();
        assert_eq!(differ, ["version: 0.0.9", "appVersion: 0.0.9"]);
        assert_eq!(read(&earlier, "values.yaml"), read(&today, "values.yaml"));
        assert!(earlier.join("templates/webhook/deployment.yaml").exists());
    }
}
