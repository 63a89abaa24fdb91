//! Who a pod is, as far as it tells: the tenant, the agent's display name, and the implicit run. Programs and people read this;
//! what the ledger believes it works out itself, from the authenticated pod.

use serde_json::json;

use crate::annotations::DisplayName;
use crate::consent::Namespace;
use crate::json::Object;
use crate::names::TENANT;
use crate::pod::{Owner, Pod};

/// On every pod of a Job.
const JOB_UID: &str = "batch.kubernetes.io/controller-uid";
/// On every pod of an indexed Job.
const JOB_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// What a Deployment adds to its ReplicaSets' names.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// A CronJob names its Jobs after itself and the minute that they are due, counted from 1970: eight digits from 1989 to 2160.
const CRON_MINUTE_DIGITS: usize = 8;
/// Kubernetes had no CronJobs in 2017; smaller numbers of eight digits are dates that people wrote.
const CRON_MINUTE_MIN: u32 = 24_700_000;

/// Variables that `KYB_RUN_ID` of an indexed Job is put together from.
pub(crate) const RUN_PARTS: [&str; 2] = ["KYB_JOB_UID", "KYB_JOB_INDEX"];

/// Where a variable's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It is known now.
    Literal(String),
    /// The kubelet fills it in, from this field of the pod.
    Field(String),
}

impl Source {
    pub(crate) fn literal(text: &str) -> Self {
        Self::Literal(text.to_owned())
    }

    pub(crate) fn field(path: &str) -> Self {
        Self::Field(path.to_owned())
    }

    /// An entry of a container's `env`.
    pub(crate) fn entry(&self, name: &str) -> Object {
        let source = match self {
            // The API server leaves an empty value out.
            Self::Literal(text) if text.is_empty() => None,
            Self::Literal(text) => Some(("value", json!(text))),
            Self::Field(path) => Some(("valueFrom", json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}}))),
        };
        let members = [("name", json!(name))].into_iter().chain(source);
        members.map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// The run that a pod's work belongs to unless it names one.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Variables that the id refers to, and so must stand before it.
    pub(crate) parts: Vec<(&'static str, Source)>,
    pub(crate) id: Source,
}

/// Who a pod is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) tenant: String,
    pub(crate) agent: String,
    pub(crate) run: Run,
}

impl Identity {
    pub(crate) fn of(pod: &Pod, namespace: &Namespace, shown: Option<&DisplayName>) -> Self {
        let tenant = namespace.label(TENANT).filter(|tenant| !tenant.is_empty()).unwrap_or(&namespace.name);
        let agent = shown.map_or_else(|| agent(pod), |shown| shown.as_str().to_owned());
        Self { tenant: tenant.to_owned(), agent, run: run(pod) }
    }
}

/// The topmost owner as far as the pod tells. `generateName` goes before `name`: between the mutating and the validating
/// webhook the API server makes the one from the other, and both must find the same.
fn agent(pod: &Pod) -> String {
    if let Some(owner) = controller(pod) {
        let stem = match owner.kind.as_str() {
            "ReplicaSet" => pod.labels.get(TEMPLATE_HASH).and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-')),
            "Job" => owner.name.rsplit_once('-').filter(|(_, minute)| is_cron_minute(minute)).map(|(stem, _)| stem),
            _ => None,
        };
        return stem.filter(|stem| !stem.is_empty()).unwrap_or(&owner.name).to_owned();
    }
    let made = pod.generate_name.as_deref().map(|name| name.trim_end_matches('-')).filter(|name| !name.is_empty());
    made.or(pod.name.as_deref()).unwrap_or_default().to_owned()
}

fn is_cron_minute(text: &str) -> bool {
    text.len() == CRON_MINUTE_DIGITS && text.parse::<u32>().is_ok_and(|minute| minute >= CRON_MINUTE_MIN)
}

fn controller(pod: &Pod) -> Option<&Owner> {
    pod.owners.iter().find(|owner| owner.is_controller && !owner.name.is_empty())
}

fn run(pod: &Pod) -> Run {
    let job = controller(pod).filter(|owner| owner.kind == "Job" && !owner.uid.is_empty());
    let uid = match (pod.labels.get(JOB_UID), job) {
        (Some(_), _) => Source::Field(format!("metadata.labels['{JOB_UID}']")),
        // A Job with a selector of its own (`manualSelector`) puts no such label.
        (None, Some(job)) => Source::literal(&job.uid),
        (None, None) => return Run { parts: Vec::new(), id: Source::field("metadata.uid") },
    };
    if pod.annotations.get(JOB_INDEX).is_none() {
        return Run { parts: Vec::new(), id: uid };
    }
    let index = Source::Field(format!("metadata.annotations['{JOB_INDEX}']"));
    let [uid_part, index_part] = RUN_PARTS;
    let id = Source::Literal(format!("$({uid_part})-$({index_part})"));
    Run { parts: vec![(uid_part, uid), (index_part, index)], id }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::refusal::Findings;

    fn agent_of(metadata: Value) -> String {
        let pod = json!({"metadata": metadata, "spec": {"containers": [{"name": "app"}]}});
        agent(&Pod::take(&pod, &mut Findings::default()))
    }

    #[test]
    fn the_topmost_owner_names_the_agent() {
        let owned = |kind: &str, name: &str, hash: &str| {
            let owners = json!([{"kind": kind, "name": name, "uid": "u", "controller": true}]);
            agent_of(json!({"name": "pod", "labels": {TEMPLATE_HASH: hash}, "ownerReferences": owners}))
        };
        for (kind, name, hash, expect) in [
            ("ReplicaSet", "trader-7d9f", "7d9f", "trader"),
            ("ReplicaSet", "trader-7d9f", "other", "trader-7d9f"),
            ("ReplicaSet", "-7d9f", "7d9f", "-7d9f"),
            ("StatefulSet", "ledger-0", "0", "ledger-0"),
            ("Job", "report-29312345", "", "report"),
            ("Job", "report-20260101", "", "report-20260101"),
            ("Job", "report-293123456", "", "report-293123456"),
            ("Job", "report", "", "report"),
        ] {
            assert_eq!(owned(kind, name, hash), expect, "{kind} {name}");
        }
    }

    #[test]
    fn without_a_controller_the_pod_names_itself() {
        assert_eq!(agent_of(json!({"name": "solo"})), "solo");
        assert_eq!(agent_of(json!({"generateName": "solo-"})), "solo");
        assert_eq!(agent_of(json!({"generateName": "solo-", "name": "solo-x7k2p"})), "solo", "as before the name was made");
        assert_eq!(agent_of(json!({"name": "solo", "ownerReferences": [{"kind": "Node", "name": "n1"}]})), "solo");
        assert_eq!(agent_of(json!({})), "");
    }
}
