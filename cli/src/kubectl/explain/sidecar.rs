//! How a pod's connections are caught, and how its sidecar does: from what was injected, and from the containers' states.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, PodStatus};
use kybernis_webhook::names::{CAPTURE_CONTAINER, PROXY_CONTAINER, STATUS};
use serde::Serialize;
use serde_json::Value;

use super::facts::Facts;

/// How connections are caught.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Capturing {
    /// Cooperative, Redirect or Strict.
    pub(super) mode: String,
    /// What that comes to.
    pub(super) meaning: String,
}

/// How a sidecar does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sidecar {
    /// The release that injected it.
    pub(super) version: Option<String>,
    pub(super) image: Option<String>,
    pub(super) ready: bool,
    pub(super) restarts: i32,
    /// `running`, `waiting: ImagePullBackOff: …`, `ended: …`.
    pub(super) state: String,
    /// How it ended the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_exit: Option<String>,
    /// How the init container fared that sets up the redirection, where it has not simply done so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) redirection: Option<String>,
    #[serde(skip)]
    out_of_memory: bool,
    /// The pod is over.
    #[serde(skip)]
    pub(super) has_ended: bool,
}

impl Capturing {
    /// As the annotation says that injection left.
    pub(super) fn of(facts: &Facts) -> Option<Self> {
        let mode = injected(facts)?.get("capture")?.as_str()?.to_owned();
        let meaning = match mode.as_str() {
            "Cooperative" => "by variables only: clients that honour proxy variables are governed, all others pass unseen",
            "Redirect" => {
                "the kernel leads all TCP and all questions about names to the sidecar, and nothing else leaves; \
                 that holds for code that ignores proxies, not for code that means to escape"
            }
            "Strict" => "as Redirect, and no other container has the means to undo it",
            _ => "a mode that this program does not know; it may be older than the cluster's release",
        };
        Some(Self { mode, meaning: meaning.to_owned() })
    }
}

/// The annotation that injection left.
fn injected(facts: &Facts) -> Option<Value> {
    serde_json::from_str(facts.annotation(STATUS)?).ok()
}

impl Sidecar {
    /// As the kubelet says.
    pub(super) fn of(facts: &Facts) -> Option<Self> {
        let containers = facts.pod.spec.as_ref()?.init_containers.as_deref()?;
        let container = containers.iter().find(|container| container.name == PROXY_CONTAINER)?;
        let pod_status = facts.pod.status.as_ref();
        let status = container_status(pod_status, PROXY_CONTAINER);
        let last = status.and_then(|status| status.last_state.as_ref()?.terminated.as_ref());
        let phase = pod_status.and_then(|status| status.phase.as_deref());
        Some(Self {
            version: injected(facts).and_then(|status| Some(status.get("version")?.as_str()?.to_owned())),
            image: container.image.clone(),
            ready: status.is_some_and(|status| status.ready),
            restarts: status.map_or(0, |status| status.restart_count),
            state: state(status.and_then(|status| status.state.as_ref())),
            last_exit: last.map(exit),
            redirection: container_status(pod_status, CAPTURE_CONTAINER).and_then(redirection),
            out_of_memory: last.and_then(|last| last.reason.as_deref()) == Some("OOMKilled"),
            has_ended: matches!(phase, Some("Succeeded" | "Failed")),
        })
    }

    /// What to do about it.
    pub(super) fn next(&self, facts: &Facts) -> Vec<String> {
        let (name, namespace) = (facts.name(), facts.namespace_name());
        let mut next = Vec::new();
        if self.has_ended {
            return next;
        }
        if self.redirection.is_some() {
            next.push(format!("kubectl logs {name} -n {namespace} -c {CAPTURE_CONTAINER}    # why connections cannot be redirected"));
        } else if !self.ready {
            next.push(format!("kubectl describe pod {name} -n {namespace}    # what the kubelet says of it"));
            next.push(format!("kubectl logs {name} -n {namespace} -c {PROXY_CONTAINER}    # what the sidecar says"));
        }
        if self.last_exit.is_some() {
            next.push(format!("kubectl logs {name} -n {namespace} -c {PROXY_CONTAINER} --previous    # what it said before it ended"));
        }
        if self.out_of_memory {
            next.push("Give the sidecar more memory: annotation kybernis.io/proxy-memory-limit on the pod template.".to_owned());
        }
        next
    }
}

fn container_status<'p>(pod: Option<&'p PodStatus>, name: &str) -> Option<&'p ContainerStatus> {
    pod?.init_container_statuses.as_ref()?.iter().find(|status| status.name == name)
}

fn state(state: Option<&ContainerState>) -> String {
    let Some(state) = state else { return "not started".to_owned() };
    if state.running.is_some() {
        return "running".to_owned();
    }
    if let Some(ended) = &state.terminated {
        return format!("ended: {}", exit(ended));
    }
    let waiting = state.waiting.as_ref();
    let said = waiting.map(|waiting| [waiting.reason.as_deref(), waiting.message.as_deref()]).unwrap_or_default();
    let said: Vec<&str> = said.into_iter().flatten().collect();
    if said.is_empty() { "not started".to_owned() } else { format!("waiting: {}", said.join(": ")) }
}

fn exit(ended: &ContainerStateTerminated) -> String {
    let code = match ended.signal {
        Some(signal) if signal > 0 => format!("signal {signal}"),
        _ => format!("exit code {}", ended.exit_code),
    };
    let reason = ended.reason.as_deref().filter(|reason| !["Error", "Completed"].contains(reason));
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let at = ended.finished_at.as_ref().and_then(|at| serde_json::to_value(at).ok());
    let at = at.as_ref().and_then(Value::as_str).map(|at| format!(" at {at}")).unwrap_or_default();
    format!("{code}{reason}{at}")
}

/// Nothing where it did its work, or has not come to it.
fn redirection(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    match (&state.terminated, &state.waiting) {
        (Some(ended), _) if ended.exit_code != 0 => Some(format!("ended: {}", exit(ended))),
        (_, Some(waiting)) if waiting.reason.as_deref() != Some("PodInitializing") => Some(self::state(Some(state))),
        _ => None,
    }
}
