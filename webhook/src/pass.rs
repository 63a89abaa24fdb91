//! One pass over a pod, for both webhooks: what it lacks is added and told, what is wrong with it is told.

use serde_json::Value;

use crate::annotations::Asked;
use crate::capture::Capture;
use crate::config::Config;
use crate::consent::{Consent, Namespace, Why, consent};
use crate::environment;
use crate::handover;
use crate::identity::Identity;
use crate::json::Object;
use crate::names::{BUNDLE_VOLUME, CAPTURE, CAPTURE_CONTAINER, CONTAINERS};
use crate::parts::{Plan, volumes};
use crate::path::FieldPath;
use crate::pod::{Container, Named, Pod};
use crate::presence::{container_differences, volume_differences};
use crate::refusal::{Fault, Findings, Refusal};
use crate::resources;
use crate::rules;
use crate::status::{Before, Status};

/// A manifest that was read from a cluster has our names too.
const TAKEN: &str = "Choose another name; where the pod is a copy of one that Kybernis has injected, remove from it what Kybernis added";

/// What a pass came to.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) findings: Findings,
    pub(crate) outcome: Passage,
}

#[derive(Debug)]
pub(crate) enum Passage {
    Untouched { why: Why, carries_ours: bool },
    Injected { pod: Box<Pod>, capture: Capture, is_again: bool },
}

/// Which of the webhooks looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Mutating,
    /// Once every mutating one has had its turn.
    Validating,
}

/// Goes over a pod. `Err` where nothing more could be looked at; faults may stand in the findings too.
pub(crate) fn pass(pod: &Value, namespace: &Namespace, config: &Config, turn: Turn) -> Result<Passed, Refusal> {
    let mut findings = Findings::default();
    let mut pod = Pod::take(pod, &mut findings);
    // What could not be read reads as absent, and would be missed below.
    let mut findings = findings.settle()?;
    if let Consent::Untouched(why) = consent(&pod, namespace, config, &mut findings) {
        let carries_ours = pod.all_containers().any(|container| CONTAINERS.contains(&container.name.as_str()));
        return Ok(Passed { findings, outcome: Passage::Untouched { why, carries_ours } });
    }
    let asked = Asked::read(&pod.annotations, &mut findings);
    let capture = capture_of(&pod, &asked, config);
    let before = match before(&pod, config, capture, turn) {
        Ok(before) => before,
        Err(fault) => {
            // Whatever else there is to say would be about somebody else's work.
            findings.faults.push(fault);
            return Err(findings.refuse());
        }
    };
    rules::check(&pod, namespace, config, &asked, capture, &mut findings);
    let plan = Plan::new(config, &asked, capture, &mut findings);
    let is_again = before.status().is_some();
    if turn == Turn::Validating && matches!(before, Before::Others(_)) {
        handover::check(&mut pod, &plan, &mut findings);
    } else {
        let identity = Identity::of(&pod, namespace, asked.agent.as_ref());
        serve_others(&mut pod, &identity, &mut findings);
        place(&mut pod, &plan, &before, &mut findings);
    }
    Ok(Passed { findings, outcome: Passage::Injected { pod: Box::new(pod), capture, is_again } })
}

/// Who has injected the pod, if anybody. While the webhook's replicas change over, the one that injected may be of another release than
/// the one that validates: what it is handed over it leaves as it is. What comes to the mutating webhook is somebody's manifest, and
/// another version's is refused.
fn before(pod: &Pod, config: &Config, capture: Capture, turn: Turn) -> Result<Before, Fault> {
    let before = Status::read(pod, config)?;
    if turn == Turn::Mutating {
        before.check_version(config)?;
    }
    before.check_capture(capture)?;
    Ok(before)
}

/// A mode that is misspelt is a fault already; nothing else shall be blamed on one that nobody chose.
fn capture_of(pod: &Pod, asked: &Asked, config: &Config) -> Capture {
    let default = if pod.annotations.get(CAPTURE).is_some() { Capture::Cooperative } else { config.settings().default_capture };
    asked.capture.unwrap_or(default)
}

/// Puts what is ours into the pod.
fn place(pod: &mut Pod, plan: &Plan<'_>, before: &Before, findings: &mut Findings) {
    let (containers, volumes) = (plan.containers(), volumes::volumes(plan));
    let mut grown = before.status().map(|before| before.grown.clone()).unwrap_or_default();
    resources::grow(&mut pod.resources, plan.resources, &mut grown, findings);
    let status = Status {
        version: plan.config.version().to_owned(),
        settings: plan.config.digest().to_owned(),
        containers: containers.iter().map(|(name, _)| (*name).to_owned()).collect(),
        volumes: volumes.iter().map(|(name, _)| (*name).to_owned()).collect(),
        capture: plan.capture,
        grown,
    };
    status.write(pod, before.status(), findings);
    containers.into_iter().for_each(|(name, fields)| place_container(pod, name, fields, before, findings));
    volumes.into_iter().for_each(|(name, fields)| place_volume(pod, name, fields, before, findings));
}

/// Gives the containers that are not ours their environment and the roots.
fn serve_others(pod: &mut Pod, identity: &Identity, findings: &mut Findings) {
    let wanted = environment::wanted(identity);
    for container in rules::others_mut(pod) {
        environment::set(container, &wanted, findings);
        if !container.mounts.iter().any(|mount| mount.name == BUNDLE_VOLUME) {
            let path = container.path.member("volumeMounts");
            findings.added(path.clone(), BUNDLE_VOLUME);
            let path = path.key(BUNDLE_VOLUME);
            container.mounts.push(Named { path, name: BUNDLE_VOLUME.to_owned(), fields: volumes::bundle_mount() });
        }
    }
    environment::warn_of_env_from(rules::others(pod), findings);
}

/// Puts one of our init containers first, after those of ours that are there. One that is there keeps its place.
fn place_container(pod: &mut Pod, name: &str, fields: Object, before: &Before, findings: &mut Findings) {
    if let Some(there) = pod.init_containers.iter().find(|container| container.name == name) {
        let Some(advice) = before.advice(name) else { return taken(there.path.member("name"), name, findings) };
        container_differences(&fields, &there.to_value(), &there.path)
            .into_iter()
            .for_each(|place| changed(place, name, &advice, findings));
        return;
    }
    let list = FieldPath::top("spec").member("initContainers");
    let path = list.key(name);
    findings.added(list, name);
    let capture = pod.init_containers.iter().position(|container| container.name == CAPTURE_CONTAINER);
    let place = if name == CAPTURE_CONTAINER { 0 } else { capture.map_or(0, |capture| capture + 1) };
    if let Some(container) = Container::new(path, fields) {
        pod.init_containers.insert(place, container);
    }
}

/// Puts one of our volumes last.
fn place_volume(pod: &mut Pod, name: &str, fields: Object, before: &Before, findings: &mut Findings) {
    if let Some(there) = pod.volumes.iter().find(|volume| volume.name == name) {
        let Some(advice) = before.advice(name) else { return taken(there.path.member("name"), name, findings) };
        volume_differences(&fields, &there.fields, &there.path).into_iter().for_each(|place| changed(place, name, &advice, findings));
        return;
    }
    let list = FieldPath::top("spec").member("volumes");
    let path = list.key(name);
    findings.added(list, name);
    pod.volumes.push(Named { path, name: name.to_owned(), fields });
}

pub(crate) fn changed(place: FieldPath, name: &str, advice: &str, findings: &mut Findings) {
    findings.fault(place, format!("{name} is not as Kybernis injects it"), advice);
}

fn taken(place: FieldPath, name: &str, findings: &mut Findings) {
    findings.fault(place, format!("{name} is a name of Kybernis' own"), TAKEN);
}
