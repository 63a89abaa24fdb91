//! Who a pod is to the ledger. The rule is the ledger's (`ledger/src/auth/identity.rs`), which knows it from the pod whose token the
//! sidecar shows; here it is told before anybody shows one.

use kybernis_core::ids::NAME_MAX;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::facts::{Facts, Owner};

/// The label by which a cluster admin maps a namespace to another tenant.
const TENANT: &str = "kybernis.io/tenant";
/// The index of an indexed Job's pod.
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// A name for people, never an identity.
const DISPLAY_NAME: &str = "kybernis.io/agent";
/// Bytes of a digest that stand for a name too long.
const SHORTENED: usize = 12;

/// Who a pod is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Agent {
    /// `namespace/ServiceAccount/Kind/owner`.
    pub(super) agent: String,
    /// Its implicit run.
    pub(super) run: String,
    /// Where its record lies.
    pub(super) tenant: String,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) display_name: Option<String>,
    /// What could make it another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) doubt: Option<String>,
}

impl Agent {
    /// Works it out.
    pub(super) fn of(facts: &Facts) -> Self {
        let metadata = &facts.pod.metadata;
        let account = facts.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let (kind, name) = facts.owners.last().map_or(("Pod", facts.name()), |top| (top.kind.as_str(), top.name.as_str()));
        let index = facts.annotation(COMPLETION_INDEX);
        let run = match (facts.owners.first().filter(|owner| owner.kind == "Job"), index) {
            (Some(job), Some(index)) => format!("{}-{index}", job.uid),
            (Some(job), None) => job.uid.clone(),
            (None, _) => metadata.uid.clone().unwrap_or_default(),
        };
        Self {
            agent: fitting(&format!("{}/{account}/{kind}/{name}", facts.namespace_name())),
            run,
            tenant: facts.namespace_label(TENANT).unwrap_or(facts.namespace_name()).to_owned(),
            display_name: facts.annotation(DISPLAY_NAME).map(str::to_owned),
            doubt: facts.owners.last().and_then(doubt),
        }
    }
}

/// The topmost owner may have one that was not seen.
fn doubt(top: &Owner) -> Option<String> {
    let middle = ["ReplicaSet", "Job"].contains(&top.kind.as_str());
    (middle && top.object.found().is_none())
        .then(|| format!("what owns {} {} could not be read, and would take its place", top.kind, top.name))
}

/// Names in Kubernetes have up to 253 characters, the ledger's fewer: one that is too long ends in its digest.
fn fitting(name: &str) -> String {
    if name.len() <= NAME_MAX {
        return name.to_owned();
    }
    let digest = hex::encode(&Sha256::digest(name)[..SHORTENED]);
    let kept: String = name.chars().take(NAME_MAX - digest.len() - 1).collect();
    format!("{kept}.{digest}")
}
