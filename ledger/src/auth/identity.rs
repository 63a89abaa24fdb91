//! Who a pod is, from what Kubernetes says of it: pure, so that every shape of owner and label is a line of a table.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kybernis_core::ids::{AgentId, NAME_MAX, NameError, PersonError, PersonId, RunId};
use sha2::{Digest as _, Sha256};

use super::Workload;

/// How Kubernetes names a ServiceAccount among users.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// The pod that a token is bound to, where the API server puts it (Kubernetes 1.22 and later).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// The index of an indexed Job's pod.
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Bytes of a digest that stand for a name too long: 96 bits, so that nobody finds another with the same.
const SHORTENED: usize = 12;

/// A token's bearer, as the API server vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) namespace: String,
    pub(super) account: String,
    /// The pod that the token is bound to: its name and uid.
    pub(super) pod: Option<(String, String)>,
}

impl Bearer {
    /// `None` for whoever is no ServiceAccount.
    pub(super) fn of(user: &UserInfo) -> Option<Self> {
        let (namespace, account) = user.username.as_deref()?.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
        let extra = |name: &str| user.extra.as_ref()?.get(name)?.first().cloned();
        let pod = extra(POD_NAME).zip(extra(POD_UID));
        Some(Self { namespace: namespace.to_owned(), account: account.to_owned(), pod })
    }

    /// The name that goes on record.
    pub(super) fn person(&self) -> Result<PersonId, PersonError> {
        PersonId::new(&fitting(&format!("{SERVICE_ACCOUNT}{}:{}", self.namespace, self.account)))
    }
}

/// What owns a pod or its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Owner {
    /// The one that manages the object: of all owners at most one may.
    pub(super) fn of(metadata: &ObjectMeta) -> Option<Self> {
        let manages = |owner: &&OwnerReference| owner.controller == Some(true);
        let owner = metadata.owner_references.as_deref()?.iter().find(manages)?;
        Some(Self { kind: owner.kind.clone(), name: owner.name.clone(), uid: owner.uid.clone() })
    }
}

/// Kinds of Kubernetes' own that own what owns pods: who names one as a pod's nearest owner has written that by hand, to be taken for
/// the workload that it is.
const OWN_NO_PODS: [&str; 2] = ["Deployment", "CronJob"];

/// A pod's owners, from the nearest up; none for a pod that somebody made by hand.
pub(super) type Owners = Vec<Owner>;

/// Why a pod's sidecar is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    #[error("the pod of this name is another one, with uid {0}")]
    Namesake(String),
    #[error("the pod has ended")]
    Ended,
    #[error("the pod carries no sidecar of ours: it has no init container {0} that restarts always")]
    NoSidecar(String),
    #[error("the pod's sidecar has image {0:?}, which is none of ours")]
    Image(String),
    #[error("the pod says that {0} owns it, and those own no pods themselves")]
    Owner(String),
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What our sidecar looks like in a pod.
#[derive(Clone, Debug)]
pub(super) struct SidecarLook {
    pub(super) container: String,
    /// Of those repositories.
    pub(super) images: Vec<String>,
}

impl SidecarLook {
    /// Whether the pod that the token is bound to carries our sidecar and is still there.
    pub(super) fn check(&self, pod: &Pod, uid: &str) -> Result<(), Stranger> {
        let actual = pod.metadata.uid.as_deref().unwrap_or_default();
        if actual != uid {
            return Err(Stranger::Namesake(actual.to_owned()));
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Err(Stranger::Ended);
        }
        let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let ours = |container: &&Container| container.name == self.container && container.restart_policy.as_deref() == Some("Always");
        let Some(sidecar) = containers.iter().find(ours) else {
            return Err(Stranger::NoSidecar(self.container.clone()));
        };
        let image = sidecar.image.clone().unwrap_or_default();
        let ours = self.images.iter().any(|ours| repository(ours) == repository(&image));
        if ours { Ok(()) } else { Err(Stranger::Image(image)) }
    }
}

/// An image's name without tag and digest; a colon before the last slash is a registry's port.
fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        Some(_) | None => name,
    }
}

/// The agent, its run and its labels (semantics: agent is namespace, ServiceAccount and topmost owner; a Job's pods share a run for
/// each completion index, so that one that is killed and tried again is the same run).
pub(super) fn workload(bearer: &Bearer, pod: &Pod, owners: &Owners) -> Result<Workload, Stranger> {
    if let Some(nearest) = owners.first().filter(|nearest| OWN_NO_PODS.contains(&nearest.kind.as_str())) {
        return Err(Stranger::Owner(format!("{} {}", nearest.kind, nearest.name)));
    }
    let metadata = &pod.metadata;
    let uid = metadata.uid.clone().unwrap_or_default();
    let (kind, name) = match owners.last() {
        Some(top) => (top.kind.as_str(), top.name.as_str()),
        None => ("Pod", metadata.name.as_deref().unwrap_or_default()),
    };
    let agent = AgentId::new(&fitting(&format!("{}/{}/{kind}/{name}", bearer.namespace, bearer.account)))?;
    let index = metadata.annotations.as_ref().and_then(|notes| notes.get(COMPLETION_INDEX));
    let run = match (owners.first().filter(|owner| owner.kind == "Job"), index) {
        (Some(job), Some(index)) => format!("{}-{index}", job.uid),
        (Some(job), None) => job.uid.clone(),
        (None, _) => uid.clone(),
    };
    let labels: BTreeMap<_, _> = metadata.labels.clone().unwrap_or_default();
    Ok(Workload { agent, run: RunId::new(&run)?, explicit_run: false, labels, instance: uid })
}

/// Names in Kubernetes have up to 253 characters, ours fewer: one that is too long ends in its digest.
fn fitting(name: &str) -> String {
    if name.len() <= NAME_MAX {
        return name.to_owned();
    }
    let digest = hex::encode(&Sha256::digest(name)[..SHORTENED]);
    // Names in Kubernetes are ASCII.
    let kept: String = name.chars().take(NAME_MAX - digest.len() - 1).collect();
    format!("{kept}.{digest}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn bearer() -> Bearer {
        Bearer { namespace: "trading".to_owned(), account: "trader".to_owned(), pod: None }
    }

    fn owner(kind: &str, name: &str, uid: &str) -> Owner {
        Owner { kind: kind.to_owned(), name: name.to_owned(), uid: uid.to_owned() }
    }

    #[test]
    fn the_topmost_owner_is_the_agent_and_the_job_the_run() {
        let deployment = vec![owner("ReplicaSet", "trader-5d9c", "u-rs"), owner("Deployment", "trader", "u-d")];
        let cron = vec![owner("Job", "nightly-2911", "u-job"), owner("CronJob", "nightly", "u-cron")];
        let job = vec![owner("Job", "once", "u-job")];
        let stateful = vec![owner("StatefulSet", "desk", "u-ss")];
        for (owners, index, agent, run) in [
            (vec![], None, "trading/trader/Pod/p-1", "u-pod"),
            (deployment, None, "trading/trader/Deployment/trader", "u-pod"),
            (stateful, Some("0"), "trading/trader/StatefulSet/desk", "u-pod"),
            (job.clone(), None, "trading/trader/Job/once", "u-job"),
            (job, Some("3"), "trading/trader/Job/once", "u-job-3"),
            (cron, None, "trading/trader/CronJob/nightly", "u-job"),
        ] {
            let mut metadata = json!({"name": "p-1", "uid": "u-pod", "labels": {"app": "trader"}});
            if let Some(index) = index {
                metadata["annotations"] = json!({COMPLETION_INDEX: index});
            }
            let known = workload(&bearer(), &pod(json!({"metadata": metadata})), &owners).unwrap();
            assert_eq!((known.agent.as_str(), known.run.as_str(), known.instance.as_str()), (agent, run, "u-pod"));
            assert_eq!(known.labels["app"], "trader");
            assert!(!known.explicit_run);
        }
    }

    #[test]
    fn who_claims_an_owner_that_owns_no_pods_is_nobody() {
        let pod = pod(json!({"metadata": {"name": "p-1", "uid": "u-pod"}}));
        for kind in OWN_NO_PODS {
            let refused = workload(&bearer(), &pod, &vec![owner(kind, "trader", "u-d")]).unwrap_err();
            assert_eq!(refused, Stranger::Owner(format!("{kind} trader")));
        }
    }

    #[test]
    fn names_too_long_for_ours_stay_apart() {
        let long = |end: &str| vec![owner("StatefulSet", &format!("{}{end}", "n".repeat(250)), "u")];
        let agent = |end: &str| {
            let pod = pod(json!({"metadata": {"name": "p", "uid": "u"}}));
            workload(&bearer(), &pod, &long(end)).unwrap().agent
        };
        assert_eq!(agent("a").as_str().len(), NAME_MAX);
        assert_ne!(agent("a"), agent("b"));
        assert!(agent("a").as_str().starts_with("trading/trader/StatefulSet/nnn"));
    }

    #[test]
    fn only_a_living_pod_that_carries_our_sidecar_is_let_in() {
        let look = SidecarLook { container: "kybernis-proxy".to_owned(), images: vec!["registry:5000/ours:1".to_owned()] };
        let proxy = |image: &str, restarts: &str| json!([{"name": "kybernis-proxy", "image": image, "restartPolicy": restarts}]);
        let with = |uid: &str, containers: Value, phase: &str| {
            pod(json!({"metadata": {"uid": uid}, "spec": {"containers": [], "initContainers": containers}, "status": {"phase": phase}}))
        };
        let no_sidecar = || Err(Stranger::NoSidecar("kybernis-proxy".to_owned()));
        for (pod, expect) in [
            (with("u", proxy("registry:5000/ours:1", "Always"), "Pending"), Ok(())),
            (with("u", proxy("registry:5000/ours@sha256:0", "Always"), "Running"), Ok(())),
            (with("v", proxy("registry:5000/ours:1", "Always"), "Running"), Err(Stranger::Namesake("v".to_owned()))),
            (with("u", proxy("registry:5000/ours:1", "Always"), "Failed"), Err(Stranger::Ended)),
            (with("u", proxy("registry:5000/ours:1", "Always"), "Succeeded"), Err(Stranger::Ended)),
            (with("u", proxy("theirs:1", "Always"), "Running"), Err(Stranger::Image("theirs:1".to_owned()))),
            (with("u", proxy("registry:5000/ours/x:1", "Always"), "Running"), Err(Stranger::Image("registry:5000/ours/x:1".to_owned()))),
            (with("u", proxy("registry", "Always"), "Running"), Err(Stranger::Image("registry".to_owned()))),
            (with("u", proxy("registry:5000/ours:1", ""), "Running"), no_sidecar()),
            (with("u", json!([]), "Running"), no_sidecar()),
        ] {
            assert_eq!(look.check(&pod, "u"), expect);
        }
    }

    #[test]
    fn a_bearer_is_a_service_account_and_perhaps_its_pod() {
        let user = |value: Value| Bearer::of(&serde_json::from_value(value).unwrap());
        let name = "system:serviceaccount:trading:trader";
        let extra = json!({POD_NAME: ["p-1"], POD_UID: ["u-1"], "authentication.kubernetes.io/node-name": ["n"]});
        let bound = Bearer { pod: Some(("p-1".to_owned(), "u-1".to_owned())), ..bearer() };
        assert_eq!(user(json!({"username": name, "extra": extra})), Some(bound));
        assert_eq!(user(json!({"username": name, "extra": {POD_NAME: ["p-1"]}})), Some(bearer()));
        assert_eq!(user(json!({"username": "ada"})), None);
        assert_eq!(user(json!({"username": "system:node:n"})), None);
        assert_eq!(user(json!({})), None);
        assert_eq!(bearer().person().unwrap().as_str(), name);
    }
}
