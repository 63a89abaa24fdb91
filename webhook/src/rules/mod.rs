//! What a pod may not be or have. Each rule looks at the pod as it was given, ours aside, and says all that breaks it.

mod foreign;
mod order;
mod pod_security;
mod strict;

use crate::annotations::{Asked, SKIP_OUTBOUND_PORTS};
use crate::capture::Capture;
use crate::config::Config;
use crate::consent::Namespace;
use crate::names::CONTAINERS;
use crate::path::FieldPath;
use crate::pod::{Container, Pod};
use crate::refusal::Findings;

pub(crate) use self::order::check as check_order;

/// The rules of a pod that is to be injected.
pub(crate) fn check(pod: &Pod, namespace: &Namespace, config: &Config, asked: &Asked, capture: Capture, findings: &mut Findings) {
    foreign::check(pod, config, capture, findings);
    if capture.redirects() {
        pod_security::check(namespace, capture, findings);
    }
    if capture == Capture::Strict {
        strict::check(pod, findings);
    }
    skip_ports(asked, capture, findings);
}

/// The containers that are not ours.
pub(crate) fn others(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.all_containers().filter(|container| !CONTAINERS.contains(&container.name.as_str()))
}

/// The same, to change them.
pub(crate) fn others_mut(pod: &mut Pod) -> impl Iterator<Item = &mut Container> {
    let all = pod.init_containers.iter_mut().chain(&mut pod.containers);
    all.filter(|container| !CONTAINERS.contains(&container.name.as_str()))
}

fn skip_ports(asked: &Asked, capture: Capture, findings: &mut Findings) {
    if asked.skip_ports.is_none() {
        return;
    }
    match capture {
        Capture::Cooperative => findings.warn(format!("the annotation {SKIP_OUTBOUND_PORTS} has no effect: Cooperative redirects no port")),
        Capture::Redirect => {}
        Capture::Strict => {
            let rule = "under Strict nothing leaves the pod without a permit, on whatever port";
            findings.fault(FieldPath::annotation(SKIP_OUTBOUND_PORTS), rule, "Remove the annotation, or choose Redirect");
        }
    }
}
