//! What people have written for a pod, whether it is in force, and what of it loosens the rules.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::DynamicObject;
use kube::core::{Selector, SelectorExt as _};
use serde::Serialize;
use serde_json::Value;

use super::super::seen::Seen;
use super::facts::Facts;
use super::sidecar::Capturing;

const SKIP_OUTBOUND_PORTS: &str = "kybernis.io/skip-outbound-ports";
const CAPTURE: &str = "kybernis.io/capture";
/// Nobody runs that would have to know it.
const NO_SIDECARS: &str = "NoSidecars";

/// An object, and whether it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Standing {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Of a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<String>,
    /// Why it is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
    #[serde(skip)]
    reason: String,
    #[serde(skip)]
    looser: Vec<String>,
}

/// The objects of a kind that holds for every pod of its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Registered {
    pub(super) count: usize,
    /// Those that are not in force.
    pub(super) not_in_force: Vec<Standing>,
}

impl Registered {
    pub(super) fn of(lists: &[Seen<Vec<DynamicObject>>]) -> Self {
        let objects: Vec<&DynamicObject> = lists.iter().filter_map(Seen::found).flatten().collect();
        let standings = objects.iter().map(|object| Standing::of(object));
        Self { count: objects.len(), not_in_force: standings.filter(|standing| standing.problem.is_some()).collect() }
    }
}

impl Standing {
    fn of(object: &DynamicObject) -> Self {
        let problem = problem(object);
        Self {
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
            mode: None,
            reason: problem.as_ref().map(|(reason, _)| reason.clone()).unwrap_or_default(),
            problem: problem.map(|(_, told)| told),
            looser: Vec::new(),
        }
    }
}

/// Why an object is not in force: the reason in one word, and in a sentence.
fn problem(object: &DynamicObject) -> Option<(String, String)> {
    let conditions = object.data["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind);
    let text = |condition: &Value, member: &str| condition[member].as_str().unwrap_or_default().to_owned();
    for (kind, not) in [("Accepted", "not accepted"), ("Programmed", "not programmed")] {
        let Some(found) = condition(kind) else {
            return Some((String::new(), "nobody has looked at it yet: is the operator up?".to_owned()));
        };
        if found["observedGeneration"].as_i64() < object.metadata.generation {
            return Some((String::new(), "its last change has not been looked at yet".to_owned()));
        }
        if found["status"] != "True" {
            let reason = text(found, "reason");
            let told = format!("{not}: {reason}: {}", text(found, "message"));
            return Some((reason, told));
        }
    }
    None
}

/// The policies that select the pod, here and in the release's namespace.
pub(super) fn selecting(facts: &Facts) -> Vec<Standing> {
    let labels = facts.labels();
    let selects = |policy: &&DynamicObject| {
        let selector: Option<LabelSelector> = serde_json::from_value(policy.data["spec"]["selector"].clone()).ok();
        // What cannot be read selects nothing; its own conditions say what is wrong with it.
        selector.map_or(policy.data["spec"]["selector"].is_null(), |selector| {
            Selector::try_from(selector).is_ok_and(|selector| selector.matches(&labels))
        })
    };
    facts.policies.iter().filter_map(Seen::found).flatten().filter(selects).map(policy).collect()
}

fn policy(object: &DynamicObject) -> Standing {
    let spec = &object.data["spec"];
    let mut standing = Standing::of(object);
    let name = format!("{}/{}", standing.namespace, standing.name);
    let mode = spec["mode"].as_str().unwrap_or("Enforce");
    let hosts: Vec<&str> = spec["uninspected"]["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if mode == "Audit" {
        standing.looser.push(format!("policy {name} only audits: it records what it would refuse, and refuses nothing"));
    }
    if spec["failureMode"] == "Open" {
        standing.looser.push(format!("policy {name} has failureMode Open: side effects go out while the ledger is away"));
    }
    if !hosts.is_empty() {
        standing.looser.push(format!("policy {name} lets tunnels to {} pass unread", hosts.join(", ")));
    }
    standing.mode = Some(mode.to_owned());
    standing
}

/// What makes the pod's rules looser than they would be.
pub(super) fn looser(facts: &Facts, capture: Option<&Capturing>, policies: &[Standing]) -> Vec<String> {
    let mut looser = Vec::new();
    let mode = capture.map(|capture| capture.mode.as_str());
    if let Some(ports) = facts.annotation(SKIP_OUTBOUND_PORTS) {
        looser.push(match mode {
            Some("Cooperative") => format!("annotation {SKIP_OUTBOUND_PORTS} has no effect: Cooperative redirects no port"),
            _ => format!("annotation {SKIP_OUTBOUND_PORTS}: connections to {ports} pass the sidecar by"),
        });
    }
    if facts.annotation(CAPTURE) == Some("Cooperative") {
        looser.push(format!("annotation {CAPTURE} asks for Cooperative, the weakest way to catch connections"));
    }
    looser.extend(policies.iter().flat_map(|policy| policy.looser.clone()));
    looser
}

/// Where to look on.
pub(super) fn next(policies: &[Standing], others: [&Registered; 2]) -> Vec<String> {
    let matters = |standing: &&Standing| standing.problem.is_some() && standing.reason != NO_SIDECARS;
    let describe = |policy: &Standing| format!("kubectl describe policy {} -n {}", policy.name, policy.namespace);
    let mut next: Vec<String> = policies.iter().filter(matters).map(describe).collect();
    let mut namespaces: Vec<&str> =
        others.iter().flat_map(|kind| &kind.not_in_force).filter(matters).map(|one| one.namespace.as_str()).collect();
    namespaces.dedup();
    next.extend(namespaces.into_iter().map(|namespace| format!("kubectl get tools,retrypolicies -n {namespace}    # what is in force")));
    next
}
