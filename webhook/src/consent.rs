//! Whether a pod is ours to touch: who must never be, who opted in, who opted out.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::Config;
use crate::names::INJECT;
use crate::path::FieldPath;
use crate::pod::Pod;
use crate::refusal::Findings;

/// Where the cluster's own pods run: they must never wait for us.
const CLUSTER_NAMESPACE: &str = "kube-system";
/// On the API server's image of a pod that a kubelet started by itself; nothing that is changed there has an effect.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The namespace that a pod is made in.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Namespace {
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

/// Why a pod is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Neither the pod nor its namespace asks for it.
    NotAsked,
    /// The pod asks not to be.
    OptedOut,
    /// Its namespace is the cluster's or our own.
    Namespace,
    /// It is the image of a pod that runs already.
    MirrorPod,
    /// It runs Windows.
    Windows,
    /// It has no network of its own to govern.
    HostNetwork,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAsked => "neither it nor its namespace asks for it",
            Self::OptedOut => "its annotation kybernis.io/inject says \"false\"",
            Self::Namespace => "pods of the cluster and of Kybernis itself are left alone",
            Self::MirrorPod => "it is a mirror pod, which the kubelet has started already",
            Self::Windows => "the sidecar does not run on Windows",
            Self::HostNetwork => "it has its node's network (spec.hostNetwork), which is not its own to govern",
        })
    }
}

/// What is to be done with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    Inject,
    Untouched(Why),
}

/// What a pod says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Unsaid,
    In,
    Out,
}

/// What a namespace says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stance {
    Unsaid,
    Enabled,
    Enforced,
}

/// Decides. A word that is neither yes nor no is a fault, and goes as a yes, so that whatever else is wrong shows too.
pub(crate) fn consent(pod: &Pod, namespace: &Namespace, config: &Config, findings: &mut Findings) -> Consent {
    if let Some(why) = never(pod, namespace, config) {
        if pod.annotations.get(INJECT).is_some_and(|said| said != "false") {
            warn(why, findings);
        }
        return Consent::Untouched(why);
    }
    let (stance, wish) = (stance(namespace, findings), wish(pod, findings));
    match (stance, wish) {
        (Stance::Unsaid, Wish::Unsaid) => return Consent::Untouched(Why::NotAsked),
        (Stance::Unsaid | Stance::Enabled, Wish::Out) => return Consent::Untouched(Why::OptedOut),
        (Stance::Enforced, Wish::Out) => {
            let rule = format!("a pod cannot opt out of the namespace {}, whose label {INJECT} is \"enforced\"", namespace.name);
            let advice = "Remove the annotation, or ask whoever owns the namespace to set its label to \"enabled\"";
            findings.fault(FieldPath::annotation(INJECT), rule, advice);
        }
        (_, Wish::In) | (Stance::Enabled | Stance::Enforced, Wish::Unsaid) => {}
    }
    if pod.sharing.host_network {
        if stance != Stance::Enforced {
            warn(Why::HostNetwork, findings);
            return Consent::Untouched(Why::HostNetwork);
        }
        let rule = format!("its node's network is not the pod's own to govern, and the namespace {} enforces injection", namespace.name);
        findings.fault(FieldPath::top("spec").member("hostNetwork"), rule, "Remove it, or run the pod in another namespace");
    }
    Consent::Inject
}

fn never(pod: &Pod, namespace: &Namespace, config: &Config) -> Option<Why> {
    let is_windows = |os: &Option<String>| os.as_deref() == Some("windows");
    if [CLUSTER_NAMESPACE, &config.settings().release_namespace].contains(&namespace.name.as_str()) {
        Some(Why::Namespace)
    } else if pod.annotations.get(MIRROR).is_some() {
        Some(Why::MirrorPod)
    } else if is_windows(&pod.os) || is_windows(&pod.node_os) {
        Some(Why::Windows)
    } else {
        None
    }
}

fn warn(why: Why, findings: &mut Findings) {
    findings.warn(format!("the pod runs without Kybernis: {why}"));
}

fn wish(pod: &Pod, findings: &mut Findings) -> Wish {
    match pod.annotations.get(INJECT) {
        None => Wish::Unsaid,
        Some("true") => Wish::In,
        Some("false") => Wish::Out,
        Some(other) => {
            findings.fault(FieldPath::annotation(INJECT), format!("{other:?} is neither yes nor no"), "Write \"true\" or \"false\"");
            Wish::In
        }
    }
}

fn stance(namespace: &Namespace, findings: &mut Findings) -> Stance {
    match namespace.label(INJECT) {
        None => Stance::Unsaid,
        Some("enabled") => Stance::Enabled,
        Some("enforced") => Stance::Enforced,
        Some(other) => {
            let path = FieldPath::top(&format!("namespace {}", namespace.name)).member("metadata").member("labels").key(INJECT);
            findings.fault(path, format!("{other:?} is no way to opt in"), "Write enabled or enforced, or remove the label");
            Stance::Enabled
        }
    }
}
