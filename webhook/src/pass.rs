//! One pass over a pod, for both webhooks: what it lacks is added and told, what is wrong with it is told.

use serde_json::Value;

use crate::annotations::Asked;
use crate::capture::Capture;
use crate::config::Config;
use crate::consent::{Consent, Namespace, Why, consent};
use crate::environment;
use crate::identity::Identity;
use crate::json::Object;
use crate::names::{BUNDLE_VOLUME, CAPTURE, CAPTURE_CONTAINER, CONTAINERS};
use crate::parts::{Plan, volumes};
use crate::path::FieldPath;
use crate::pod::{Container, Named, Pod};
use crate::presence::{container_differences, volume_differences};
use crate::refusal::{Findings, Refusal};
use crate::resources;
use crate::rules;
use crate::status::Status;

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

/// Goes over a pod. `Err` where nothing more could be looked at; faults may stand in the findings too.
pub(crate) fn pass(pod: &Value, namespace: &Namespace, config: &Config) -> Result<Passed, Refusal> {
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
    let before = match Status::read(&pod, config, capture) {
        Ok(before) => before,
        Err(fault) => {
            // Whatever else there is to say would be about somebody else's work.
            findings.faults.push(fault);
            return Err(findings.refuse());
        }
    };
    rules::check(&pod, namespace, config, &asked, capture, &mut findings);
    let is_again = before.is_some();
    let plan = Plan::new(config, &asked, capture, &mut findings);
    let identity = Identity::of(&pod, namespace, asked.agent.as_ref());
    serve_others(&mut pod, &identity, &mut findings);
    let containers = plan.containers();
    let volumes = volumes::volumes(&plan);
    let mut grown = before.as_ref().map(|before| before.grown.clone()).unwrap_or_default();
    resources::grow(&mut pod.resources, plan.resources, &mut grown, &mut findings);
    let status = Status {
        version: config.version().to_owned(),
        containers: containers.iter().map(|(name, _)| (*name).to_owned()).collect(),
        volumes: volumes.iter().map(|(name, _)| (*name).to_owned()).collect(),
        capture,
        grown,
    };
    status.write(&mut pod, before.as_ref(), &mut findings);
    containers.into_iter().for_each(|(name, fields)| place_container(&mut pod, name, fields, is_again, &mut findings));
    volumes.into_iter().for_each(|(name, fields)| place_volume(&mut pod, name, fields, is_again, &mut findings));
    Ok(Passed { findings, outcome: Passage::Injected { pod: Box::new(pod), capture, is_again } })
}

/// A mode that is misspelt is a fault already; nothing else shall be blamed on one that nobody chose.
fn capture_of(pod: &Pod, asked: &Asked, config: &Config) -> Capture {
    let default = if pod.annotations.get(CAPTURE).is_some() { Capture::Cooperative } else { config.settings().default_capture };
    asked.capture.unwrap_or(default)
}

/// Gives the containers that are not ours their environment and the roots.
fn serve_others(pod: &mut Pod, identity: &Identity, findings: &mut Findings) {
    let wanted = environment::wanted(identity);
    let all = pod.init_containers.iter_mut().chain(&mut pod.containers);
    for container in all.filter(|container| !CONTAINERS.contains(&container.name.as_str())) {
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
fn place_container(pod: &mut Pod, name: &str, fields: Object, is_again: bool, findings: &mut Findings) {
    if let Some(there) = pod.init_containers.iter().find(|container| container.name == name) {
        if is_again {
            container_differences(&fields, &there.to_value(), &there.path).into_iter().for_each(|place| changed(place, name, findings));
        } else {
            taken(there.path.member("name"), name, findings);
        }
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
fn place_volume(pod: &mut Pod, name: &str, fields: Object, is_again: bool, findings: &mut Findings) {
    if let Some(there) = pod.volumes.iter().find(|volume| volume.name == name) {
        if is_again {
            volume_differences(&fields, &there.fields, &there.path).into_iter().for_each(|place| changed(place, name, findings));
        } else {
            taken(there.path.member("name"), name, findings);
        }
        return;
    }
    let list = FieldPath::top("spec").member("volumes");
    let path = list.key(name);
    findings.added(list, name);
    pod.volumes.push(Named { path, name: name.to_owned(), fields });
}

fn changed(place: FieldPath, name: &str, findings: &mut Findings) {
    findings.fault(place, format!("{name} is not as Kybernis injects it"), format!("Let whatever changes it leave {name} alone"));
}

fn taken(place: FieldPath, name: &str, findings: &mut Findings) {
    findings.fault(place, format!("{name} is a name of Kybernis' own"), "Choose another name");
}
