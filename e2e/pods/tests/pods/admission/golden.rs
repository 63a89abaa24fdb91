//! The webhook's golden pods, `webhook/tests/golden`, as this release is to answer them: the same words, but for its own settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// What the golden pods' settings are, and those of `objects/values.yaml`.
const SETTINGS: [(&str, &str); 8] = [
    (r#""ghcr.io/kybernis/sidecar:0.1.0""#, r#""kybernis.test/sidecar:e2e""#),
    (r#""ghcr.io/kybernis/capture:0.1.0""#, r#""kybernis.test/capture:e2e""#),
    (r#""value": "kybernis-ledger.kybernis-system.svc""#, r#""value": "ledger.kybernis""#),
    (r#""value": "0.0.0.0:7490""#, r#""value": "[::]:7490""#),
    (r#""requests": {"cpu": "50m", "memory": "64Mi"}"#, r#""requests": {"cpu": "10m", "memory": "32Mi"}"#),
    (r#"\"requests.cpu\":\"50m\",\"requests.memory\":\"64Mi\""#, r#"\"requests.cpu\":\"10m\",\"requests.memory\":\"32Mi\""#),
    // A pod's own 500m and 1Gi, and ours.
    (r#""requests": {"cpu": "550m", "memory": "1088Mi"}"#, r#""requests": {"cpu": "510m", "memory": "1056Mi"}"#),
    (r#""imagePullPolicy": "IfNotPresent""#, r#""imagePullPolicy": "Never""#),
];
/// What the golden pods' status calls their settings; a cluster's are called otherwise.
const SETTINGS_DIGEST: &str = "b2573d5c";
/// The namespace of a golden pod that names none.
const NAMESPACE: &str = "trading";

/// A golden pod.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Case {
    /// Its folder.
    #[serde(skip)]
    pub(super) name: String,
    #[serde(default)]
    namespace: NamespaceOf,
    /// Settings that this release does not have.
    #[serde(default)]
    pub(super) config: Value,
    /// The pod that another case ends with.
    pub(super) from: Option<String>,
    #[serde(default)]
    pub(super) pod: Value,
    /// After the API server's defaults.
    #[serde(default)]
    pub(super) defaulted: bool,
    /// RFC 6902: what others have done to it.
    #[serde(default)]
    pub(super) edits: Vec<Value>,
    /// Written for the validating webhook.
    #[serde(default)]
    pub(super) validate: bool,
    #[serde(skip)]
    expected: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct NamespaceOf {
    name: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// What is to become of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expected {
    /// It is let in as it came, and nothing of ours is in it.
    Untouched,
    /// It is let in as it came, and all of ours was in it.
    Unchanged,
    /// It is let in as this.
    Injected(Value),
    /// It is let in, and what lacked is there: whoever comes back meets the mutating webhook first.
    Mended,
    /// It is refused with these sentences.
    Refused(Vec<String>),
}

impl Case {
    /// All of them.
    pub(super) fn all() -> Result<Vec<Self>> {
        let mut cases = Vec::new();
        for entry in fs::read_dir(folder()).context("the folder of golden pods")? {
            let path = entry?.path();
            let text = fs::read_to_string(path.join("case.yaml")).with_context(|| path.display().to_string())?;
            let mut case: Self = serde_yaml_ng::from_str(&text).with_context(|| path.display().to_string())?;
            case.name = path.file_name().context("a name")?.to_string_lossy().into_owned();
            case.expected = fs::read_to_string(path.join("expected.txt"))?;
            cases.push(case);
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(cases)
    }

    /// The labels of its namespace, where that is not one by name.
    pub(super) fn labels(&self) -> Result<BTreeMap<String, String>, &str> {
        self.namespace.name.as_deref().map_or_else(|| Ok(self.namespace.labels.clone()), Err)
    }

    /// What is said of it in this namespace, where the settings are called this.
    pub(super) fn expected(&self, namespace: &str, settings: &str) -> Result<Expected> {
        let (head, rest) = self.expected.split_once('\n').context("an empty golden file")?;
        let rest: String = rest.lines().filter(|line| !line.starts_with("warning: ")).collect::<Vec<_>>().join("\n");
        Ok(match head {
            _ if head.starts_with("untouched: ") => Expected::Untouched,
            "unchanged" | "valid" => Expected::Unchanged,
            "injected" => Expected::Injected(injected(&rest, namespace, settings).with_context(|| self.name.clone())?),
            "refused" => {
                let rest = rest.replace(&format!("namespace {NAMESPACE}"), &format!("namespace {namespace}"));
                let sentences = sentences(&rest);
                let left: Vec<String> = sentences.into_iter().filter(|sentence| !self.validate || !is_mended(sentence)).collect();
                if left.is_empty() { Expected::Mended } else { Expected::Refused(left) }
            }
            other => bail!("{}: what is {other:?}?", self.name),
        })
    }

    /// The warnings that come with it.
    pub(super) fn warnings(&self) -> Vec<&str> {
        self.expected.lines().filter_map(|line| line.strip_prefix("warning: ")).collect()
    }
}

/// The sentences of a refusal: one for each thing that is wrong.
pub(super) fn sentences(refusal: &str) -> Vec<String> {
    let lines = refusal.lines().filter(|line| !line.ends_with(" things are wrong:") && !line.is_empty());
    lines.map(|line| line.strip_prefix("- ").unwrap_or(line).to_owned()).collect()
}

/// Whether the mutating webhook has put it right before the validating one looks.
fn is_mended(sentence: &str) -> bool {
    sentence.contains(": lacks ") || sentence.contains("Kybernis has not injected it")
}

fn injected(text: &str, namespace: &str, settings: &str) -> Result<Value> {
    let text = text.replace(SETTINGS_DIGEST, settings);
    let text = SETTINGS.iter().fold(text, |text, (golden, ours)| text.replace(golden, ours));
    let tenant = |name: &str| format!(r#"{{"name": "KYB_TENANT_ID", "value": "{name}"}}"#);
    let mut pod: Value = serde_json::from_str(&text.replace(&tenant(NAMESPACE), &tenant(namespace)))?;
    // Only ours have the release's policy.
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        if container["imagePullPolicy"] == "Never" {
            container["imagePullPolicy"] = json!("IfNotPresent");
        }
    }
    Ok(pod)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../webhook/tests/golden")
}

/// How connections are caught in an injected pod, by its own word.
pub(super) fn capture(pod: &Value) -> Result<String> {
    let status = pod["metadata"]["annotations"]["kybernis.io/status"].as_str().context("the pod has no status of ours")?;
    let status: Value = serde_json::from_str(status)?;
    Ok(status["capture"].as_str().context("a status without a mode")?.to_owned())
}
