//! Objects held to the rules, and what is kept of a namespace between two looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kybernis_core::policy::PolicySet;
use kybernis_crds::{ManifestError, load_objects, lower_namespace};
use kybernis_proto::POLICY_SET_MAX;

use crate::build::Lowering;
use crate::facts::Facts;
use crate::kinds::Kind;
use crate::object::{Key, Object};
use crate::reason::Fault;

/// What a set in JSON may take of the message that brings it; the rest is for the Secrets.
const SET_BYTES_MAX: usize = POLICY_SET_MAX / 2;

/// What identifies the state of an object for the checks.
pub(super) type Mark = (Key, String, i64);

/// Some objects, judged together.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) faults: BTreeMap<Key, Fault>,
    /// What is wrong with no object of these.
    pub(super) stray: Option<String>,
    /// Where nothing is wrong.
    pub(super) set: Option<Arc<Lowering>>,
}

/// What is kept of a namespace.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Of which state of the release's objects it is the verdict.
    epoch: u64,
    marks: Vec<Mark>,
    pub(super) judged: Arc<Judged>,
    /// Its objects as they last held, and the verdict on them.
    good: Option<(Vec<Arc<Object>>, Arc<Judged>)>,
}

impl Kept {
    /// Looks at its objects; what has not changed is not judged again.
    pub(super) fn look(&mut self, own: &[&Arc<Object>], cluster: &[&Arc<Object>], namespace: &str, epoch: u64, facts: &Facts) {
        let marks = marks(own);
        if self.epoch == epoch && self.marks == marks {
            return;
        }
        let together: Vec<&Arc<Object>> = cluster.iter().chain(own).copied().collect();
        self.judged = Arc::new(judge(&together, namespace, facts));
        if self.judged.set.is_some() {
            self.good = Some((own.iter().map(|object| Arc::clone(object)).collect(), Arc::clone(&self.judged)));
        } else if let Some((objects, verdict)) = self.good.as_mut().filter(|_| self.epoch != epoch) {
            let together: Vec<&Arc<Object>> = cluster.iter().copied().chain(objects.iter()).collect();
            *verdict = Arc::new(judge(&together, namespace, facts));
        }
        (self.epoch, self.marks) = (epoch, marks);
    }

    /// The set of its objects as they last held, where they go with the release's of today.
    pub(super) fn last_good(&self) -> Option<Arc<Lowering>> {
        self.good.as_ref().and_then(|(_, verdict)| verdict.set.clone())
    }
}

pub(super) fn marks(objects: &[&Arc<Object>]) -> Vec<Mark> {
    objects.iter().map(|object| (object.key.clone(), object.uid.clone(), object.generation)).collect()
}

/// Holds objects to the rules, together; faults are told of those in `namespace`.
pub(super) fn judge(objects: &[&Arc<Object>], namespace: &str, facts: &Facts) -> Judged {
    let sources: Vec<_> =
        objects.iter().map(|object| kybernis_crds::Object { name: object.key.to_string(), value: object.value() }).collect();
    let errors = match load_objects(&sources, &facts.release) {
        Ok(loaded) => return within_bounds(lower_namespace(&loaded, namespace)),
        Err(errors) => errors,
    };
    let names: BTreeMap<&str, &Arc<Object>> = sources.iter().map(|source| source.name.as_str()).zip(objects.iter().copied()).collect();
    let mut by_object: BTreeMap<&Key, Vec<&ManifestError>> = BTreeMap::new();
    let mut judged = Judged::default();
    for error in &errors {
        match names.get(error.file.as_str()) {
            Some(object) => by_object.entry(&object.key).or_default().push(error),
            None => judged.stray = Some(error.to_string()),
        }
    }
    let broken: BTreeSet<&str> = by_object.keys().filter(|key| key.kind == Kind::Tool).map(|key| key.name.as_str()).collect();
    for (key, errors) in &by_object {
        let object = objects.iter().find(|object| object.key == **key);
        let own: Vec<&ManifestError> =
            errors.iter().copied().filter(|error| !object.is_some_and(|object| names_broken_tool(object, error, &broken))).collect();
        if own.is_empty() {
            continue;
        }
        let fault = Fault::of(&own);
        if key.namespace == namespace {
            judged.faults.insert((*key).clone(), fault);
        } else {
            judged.stray = Some(format!("{key} does not go with the objects here: {}", fault.message));
        }
    }
    judged
}

/// The ledger takes messages up to a bound.
fn within_bounds(set: PolicySet) -> Judged {
    let lowering = Lowering::new(set);
    if lowering.json().len() > SET_BYTES_MAX {
        let stray = format!("the objects here make a set of more than {SET_BYTES_MAX} bytes. Remove some of them");
        return Judged { stray: Some(stray), ..Judged::default() };
    }
    Judged { set: Some(Arc::new(lowering)), ..Judged::default() }
}

/// Whether the error says no more than that a tool is not known that is there but does not hold: the tool's own errors say it.
fn names_broken_tool(object: &Object, error: &ManifestError, broken: &BTreeSet<&str>) -> bool {
    let Some((list, _)) = error.field.rsplit_once('[') else { return false };
    if !list.ends_with(".tools") {
        return false;
    }
    let pointer = format!("/{}", error.field.replace(['.', '['], "/").replace(']', ""));
    object.pointer(&pointer).and_then(serde_json::Value::as_str).is_some_and(|name| broken.contains(name))
}
