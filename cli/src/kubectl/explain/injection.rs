//! Whether a pod was injected, why, and if not, what kept it: the rules of the webhook (`webhook/src/consent.rs`) read backwards, and
//! the mistakes that people make with them.

use kybernis_webhook::Why;
use kybernis_webhook::names::{INJECT, PROXY_CONTAINER};

use super::super::seen::Seen;
use super::facts::{Facts, Owner};

/// On the API server's image of a pod that a kubelet started by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";
const CLUSTER_NAMESPACE: &str = "kube-system";
/// What a pod template says, and how a person says it.
const ASKING: &str = r#"{"metadata":{"annotations":{"kybernis.io/inject":"true"}}}"#;

/// What came of a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Injection {
    pub(super) injected: bool,
    pub(super) because: Vec<String>,
    pub(super) next: Vec<String>,
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Injection {
    let containers = facts.pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    if containers.iter().any(|container| container.name == PROXY_CONTAINER && container.restart_policy.as_deref() == Some("Always")) {
        let because = match asks(facts) {
            asks if asks.is_empty() => vec!["it was asked for when the pod was made; what asked for it is gone".to_owned()],
            asks => asks,
        };
        return Injection { injected: true, because, next: Vec::new() };
    }
    if let Some(why) = never(facts) {
        return Injection { because: vec![why.to_string()], ..Injection::default() };
    }
    if facts.annotation(INJECT) == Some("false") {
        let because = vec![Why::OptedOut.to_string()];
        return Injection { because, next: opt_in(facts), ..Injection::default() };
    }
    match asks(facts) {
        asks if asks.is_empty() => not_asked(facts),
        asks if is_on_host_network(facts) => {
            let because = asks.into_iter().chain([format!("but {}", Why::HostNetwork)]).collect();
            let next = vec!["Give the pod a network of its own (no spec.hostNetwork), where it can do without its node's.".to_owned()];
            Injection { because, next, ..Injection::default() }
        }
        asks => missed(facts, asks),
    }
}

/// What asks for a sidecar now.
fn asks(facts: &Facts) -> Vec<String> {
    let mut asks = Vec::new();
    if facts.annotation(INJECT) == Some("true") {
        asks.push(format!("its annotation {INJECT} says \"true\""));
    }
    if let Some(said) = facts.namespace_label(INJECT) {
        asks.push(format!("its namespace's label {INJECT} says {said:?}"));
    }
    asks
}

fn never(facts: &Facts) -> Option<Why> {
    let spec = facts.pod.spec.as_ref();
    let os = spec.and_then(|spec| spec.os.as_ref()).map(|os| os.name.as_str());
    let node_os = spec.and_then(|spec| spec.node_selector.as_ref()?.get("kubernetes.io/os")).map(String::as_str);
    if [CLUSTER_NAMESPACE, &facts.release.namespace].contains(&facts.namespace_name()) {
        Some(Why::Namespace)
    } else if facts.annotation(MIRROR).is_some() {
        Some(Why::MirrorPod)
    } else if [os, node_os].contains(&Some("windows")) {
        Some(Why::Windows)
    } else {
        None
    }
}

fn is_on_host_network(facts: &Facts) -> bool {
    facts.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}

/// It is asked for, nothing speaks against it, and it is not there: the pod came first, or nobody was there to inject.
fn missed(facts: &Facts, asks: Vec<String>) -> Injection {
    let mut because = asks;
    let mut next = restart(facts);
    let made = facts.pod.metadata.creation_timestamp.as_ref();
    let top = facts.owners.last();
    match &facts.release.webhook {
        Seen::Absent => {
            because.push("but nobody injects: the cluster has no MutatingWebhookConfiguration named kybernis".to_owned());
            next.insert(0, format!("helm status kybernis -n {}    # whether Kybernis is installed", facts.release.namespace));
        }
        Seen::Found(webhook) if webhook.metadata.creation_timestamp.as_ref() > made => {
            because.push("but the pod is older than Kybernis' webhook, and a pod that runs is never changed".to_owned());
        }
        Seen::Found(_) | Seen::Hidden(_) if facts.annotation(INJECT).is_some() && top.is_some_and(|top| !template_asks(top)) => {
            because.push("but its template does not: the annotation came when the pod was there already, and goes with it".to_owned());
            next = opt_in(facts);
        }
        Seen::Found(_) | Seen::Hidden(_) => {
            because.push("but the pod was made before that was said, or past the webhook, and a pod that runs is never changed".to_owned());
        }
    }
    Injection { injected: false, because, next }
}

fn template_asks(owner: &Owner) -> bool {
    owner.template_annotation(INJECT) == Some("true")
}

/// Nothing asks; perhaps somebody meant to.
fn not_asked(facts: &Facts) -> Injection {
    let mut because = vec![match facts.namespace.hidden() {
        None => Why::NotAsked.to_string(),
        Some(_) => "it does not ask for it, and its namespace could not be read".to_owned(),
    }];
    let top = facts.owners.last();
    if let Some(top) = top.filter(|top| template_asks(top)) {
        because.push(format!("its {}'s template asks for it now, and the pod is older than that", top.kind));
        return Injection { injected: false, because, next: restart(facts) };
    }
    if let Some(top) = top.filter(|top| top.own_annotation(INJECT).is_some()) {
        let (kind, name) = (&top.kind, &top.name);
        let place = if kind == "CronJob" { "spec.jobTemplate.spec.template" } else { "spec.template" };
        because.push(format!(
            "{kind} {name} carries {INJECT} on its own metadata, which no pod inherits: it belongs into {place}.metadata.annotations"
        ));
    }
    if facts.labels().contains_key(INJECT) {
        because.push(format!("it has {INJECT} as a label, and on pods only the annotation of that name counts"));
    }
    let noted = facts.namespace.found().and_then(|namespace| namespace.metadata.annotations.as_ref()?.get(INJECT));
    if noted.is_some() {
        because.push(format!("its namespace has {INJECT} as an annotation, and on namespaces only the label of that name counts"));
    }
    Injection { injected: false, because, next: opt_in(facts) }
}

/// How to ask, at the place that lasts.
fn opt_in(facts: &Facts) -> Vec<String> {
    let namespace = facts.namespace_name();
    let patch = |kind: &str, name: &str, spec: String| format!("kubectl patch {kind} {name} -n {namespace} -p '{{\"spec\":{spec}}}'");
    let template = format!(r#"{{"template":{ASKING}}}"#);
    let mut next = vec![match facts.owners.last() {
        None => format!("Make the pod anew with the annotation {INJECT}: \"true\"."),
        Some(Owner { kind, name, .. }) => match kind.as_str() {
            "Deployment" | "StatefulSet" | "DaemonSet" => patch(&kind.to_ascii_lowercase(), name, template),
            "CronJob" => patch("cronjob", name, format!(r#"{{"jobTemplate":{{"spec":{template}}}}}"#)),
            kind => format!("Give the pod template of {kind} {name} the annotation {INJECT}: \"true\", and make it anew."),
        },
    }];
    if facts.namespace_label(INJECT).is_none() {
        next.push(format!("kubectl label namespace {namespace} {INJECT}=enabled    # or all pods there that are made from then on"));
    }
    next
}

/// How to get new pods.
fn restart(facts: &Facts) -> Vec<String> {
    let namespace = facts.namespace_name();
    vec![match facts.owners.last() {
        None => "Make the pod anew.".to_owned(),
        Some(top) => match top.kind.as_str() {
            "Deployment" | "StatefulSet" | "DaemonSet" => {
                format!("kubectl rollout restart {}/{} -n {namespace}", top.kind.to_ascii_lowercase(), top.name)
            }
            "CronJob" => format!("Wait for the next Job of CronJob {}: its pods are new ones.", top.name),
            "Job" => format!("Make Job {} anew: the pods of one that runs stay as they are.", top.name),
            _ => format!("kubectl delete pod {} -n {namespace}    # {} {} makes a new one", facts.name(), top.kind, top.name),
        },
    }]
}
