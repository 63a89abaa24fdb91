//! The golden pods as guests of a real API server: in namespaces with their labels, each with what is to become of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use kybernis_pods::{World, said};
use serde_json::{Value, json};

use super::golden::{Case, Expected, capture};
use super::hostile::HERE;
use super::subset::differences;
use super::{Answer, Run, submit};

/// A list of a pod's.
pub(super) const INITS: &str = "initContainers";

/// The golden pods and the namespaces that they are made in.
pub(super) struct Stage<'w> {
    pub(super) world: &'w World,
    pub(super) cases: BTreeMap<String, Case>,
    /// A namespace for all pods whose namespaces have the same labels.
    namespaces: BTreeMap<BTreeMap<String, String>, String>,
    /// What this release calls its settings.
    settings: String,
}

/// A golden pod as it is handed in, and what is to become of it.
pub(super) struct Guest {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) pod: Value,
    pub(super) expected: Expected,
    /// It has all of ours already, or had.
    pub(super) is_again: bool,
    /// The hostile webhook is there, too.
    pub(super) is_watched: bool,
}

impl<'w> Stage<'w> {
    pub(super) fn set(world: &'w World) -> Result<Self> {
        // Those of an earlier run.
        said(&mut world.kubectl(["delete", "namespaces", &format!("--selector={HERE}"), "--wait", "--timeout=120s"]))?;
        let mut cases = BTreeMap::new();
        let mut namespaces = BTreeMap::new();
        for case in Case::all()? {
            if let Ok(labels) = case.labels() {
                let next = format!("golden-{}", namespaces.len());
                namespaces.entry(labels).or_insert(next);
            }
            cases.insert(case.name.clone(), case);
        }
        for (labels, name) in &namespaces {
            said(&mut world.kubectl(["create", "namespace", name]))?;
            let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
            said(world.kubectl(["label", "namespace", name, &format!("{HERE}=true")]).args(labels))?;
            said(&mut world.kubectl(["wait", "serviceaccount/default", "--namespace", name, "--for=create", "--timeout=60s"]))?;
        }
        let mut stage = Self { world, cases, namespaces, settings: String::new() };
        stage.settings = stage.settings()?;
        Ok(stage)
    }

    /// The namespace without labels.
    pub(super) fn plain(&self) -> Result<&str> {
        Ok(self.namespaces.get(&BTreeMap::new()).context("no case without labels")?)
    }

    /// All that this release's settings have an answer to.
    pub(super) fn guests(&self) -> Result<Vec<Guest>> {
        self.cases.values().filter(|case| case.config.is_null()).map(|case| self.guest(case).context(case.name.clone())).collect()
    }

    /// As a pod that it injects tells.
    fn settings(&self) -> Result<String> {
        let case = self.cases.get("agent").context("no case agent")?;
        let answer = submit(self.world, self.plain()?, &pod(case.pod.clone()), Run::Dry)?;
        let Answer::Taken { pod, .. } = answer else { bail!("it is not let in: {answer:?}") };
        let status = pod["metadata"]["annotations"]["kybernis.io/status"].as_str().context("no status")?;
        let status: Value = serde_json::from_str(status)?;
        Ok(status["settings"].as_str().context("a status without settings")?.to_owned())
    }

    pub(super) fn guest(&self, case: &Case) -> Result<Guest> {
        let namespace = match case.labels() {
            Ok(labels) => self.namespaces.get(&labels).context("a namespace")?,
            Err(name) => name,
        };
        let mut given = match &case.from {
            None => pod(case.pod.clone()),
            Some(from) => match self.cases.get(from).context("no such case")?.expected(namespace, &self.settings)? {
                Expected::Injected(injected) => pod(injected),
                other => bail!("{from} ends with no pod: {other:?}"),
            },
        };
        if case.defaulted {
            let answer = submit(self.world, namespace, &given, Run::Dry)?;
            let Answer::Taken { pod, .. } = answer else { bail!("it is not let in: {answer:?}") };
            given = copied(pod);
        }
        let edits: json_patch::Patch = serde_json::from_value(json!(case.edits))?;
        json_patch::patch(&mut given, &edits)?;
        if given["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
            // Which the API server asks for, of a kubelet's own pod.
            given["spec"]["nodeName"] = json!("nowhere");
        }
        let expected = case.expected(namespace, &self.settings)?;
        // What it adds is of no use on Windows, and refused there.
        let is_watched = case.labels().is_ok() && given["spec"]["os"].is_null();
        Ok(Guest {
            name: case.name.clone(),
            namespace: namespace.to_owned(),
            pod: given,
            expected,
            is_again: case.from.is_some(),
            is_watched,
        })
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let _ = said(&mut self.world.kubectl(["delete", "namespaces", &format!("--selector={HERE}"), "--wait=false"]));
    }
}

impl Guest {
    pub(super) fn is_injected(&self) -> bool {
        matches!(self.expected, Expected::Injected(_) | Expected::Unchanged | Expected::Mended)
    }

    /// Whether connections are redirected once it is injected.
    pub(super) fn redirects(&self) -> Result<bool> {
        let mode = match &self.expected {
            Expected::Injected(pod) => capture(pod)?,
            // Injected for the first time, it asks for nothing.
            Expected::Mended if !self.is_again => return Ok(true),
            _ => capture(&self.pod)?,
        };
        Ok(mode != "Cooperative")
    }

    /// Holds a pod that was let in against what was expected of it.
    pub(super) fn is_as(&self, expected: &Expected, pod: &Value) -> Result<()> {
        let places = match expected {
            Expected::Injected(expected) => differences(expected, pod),
            Expected::Untouched | Expected::Unchanged => differences(&self.pod, pod),
            Expected::Mended => {
                let names: Vec<&Value> = pod["spec"][INITS].as_array().into_iter().flatten().map(|init| &init["name"]).collect();
                ensure!(names == ["kybernis-capture", "kybernis-proxy"], "its init containers are {names:?}");
                ensure!(is_served(&pod["spec"]["containers"][0]), "its container has not all of ours");
                ensure!(pod["metadata"]["labels"]["kybernis.io/injected"] == "true", "it has not our label");
                Vec::new()
            }
            Expected::Refused(_) => bail!("it is let in"),
        };
        ensure!(places.is_empty(), "{places:#?}");
        if *expected == Expected::Untouched {
            ensure!(!pod["spec"].to_string().contains("kybernis"), "something of ours is in it: {pod}");
        }
        Ok(())
    }
}

/// A whole manifest.
pub(super) fn pod(mut pod: Value) -> Value {
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod
}

/// What is stored, as whoever makes it anew would copy it.
pub(super) fn copied(mut pod: Value) -> Value {
    let _ = pod.as_object_mut().and_then(|pod| pod.remove("status"));
    for field in ["creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"] {
        let _ = pod["metadata"].as_object_mut().and_then(|metadata| metadata.remove(field));
    }
    pod
}

/// Whether a container has the environment and the roots.
pub(super) fn is_served(container: &Value) -> bool {
    let has = |list: &str, name: &str| container[list].as_array().into_iter().flatten().any(|item| item["name"] == name);
    has("env", "KYB_RUN_ID") && has("env", "HTTP_PROXY") && has("volumeMounts", "kybernis-bundle")
}
