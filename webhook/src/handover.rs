//! A pod that a webhook of another release has injected, as it is about to be stored. While the webhook's replicas change over, the API
//! server asks one of either release about the same pod. The one that injected has judged every part of ours; here is judged what holds
//! for any release, so that nobody gets around the sidecar by naming another version. Images, users and privileges are left to the
//! chart's admission policies, which allow the images of several releases.

use crate::environment;
use crate::parts::{Plan, volumes};
use crate::pass::changed;
use crate::path::FieldPath;
use crate::pod::Pod;
use crate::presence::{other_container_differences, other_volume_differences};
use crate::refusal::Findings;
use crate::rules;
use crate::status::OF_ANOTHER;

/// Says what no release would have left so.
pub(crate) fn check(pod: &mut Pod, plan: &Plan<'_>, findings: &mut Findings) {
    let proxies = environment::proxies();
    rules::others_mut(pod).for_each(|container| environment::set(container, &proxies, findings));
    for (name, fields) in plan.containers() {
        let Some(there) = pod.init_containers.iter().find(|container| container.name == name) else {
            findings.added(FieldPath::top("spec").member("initContainers"), name);
            continue;
        };
        let places = other_container_differences(&fields, &there.to_value(), &there.path);
        places.into_iter().for_each(|place| changed(place, name, OF_ANOTHER, findings));
    }
    for (name, fields) in volumes::volumes(plan) {
        let there = pod.volumes.iter().filter(|volume| volume.name == name);
        let places = there.flat_map(|there| other_volume_differences(&fields, &there.fields, &there.path));
        places.for_each(|place| changed(place, name, OF_ANOTHER, findings));
    }
}
