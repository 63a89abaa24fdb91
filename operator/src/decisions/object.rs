//! A GateDecision, as the API server has it.

use std::sync::Arc;

use kube::core::DynamicObject;
use kybernis_crds::kinds::GateDecisionSpec;
use serde::Deserialize as _;
use serde_json::Value;

use crate::events::About;
use crate::ledger::Place;

/// The condition that says what became of a decision.
pub(super) const RECORDED: &str = "Recorded";

/// The object.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub(super) place: Place,
    pub(super) uid: String,
    pub(super) generation: i64,
    /// Names this very state, status included.
    pub(super) version: String,
    /// `None`: not one that the schema lets in.
    pub(super) spec: Option<GateDecisionSpec>,
    /// The conditions that are not ours.
    pub(super) others: Vec<Value>,
}

impl Decision {
    /// What a watch brought; `None` for what no API server sends.
    pub(super) fn read(found: &DynamicObject) -> Option<Self> {
        let metadata = &found.metadata;
        Some(Self {
            place: Place { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? },
            uid: metadata.uid.clone()?,
            generation: metadata.generation.unwrap_or_default(),
            version: metadata.resource_version.clone().unwrap_or_default(),
            spec: found.data.get("spec").and_then(|spec| GateDecisionSpec::deserialize(spec).ok()),
            others: conditions(found).filter(|condition| !is_ours(condition)).cloned().collect(),
        })
    }

    /// The Gate object that it is about.
    pub(super) fn gate(&self) -> Option<Place> {
        let spec = self.spec.as_ref()?;
        Some(Place { namespace: self.place.namespace.clone(), name: spec.gate.clone() })
    }

    pub(super) fn about(&self) -> About<'_> {
        About { namespace: &self.place.namespace, name: &self.place.name, uid: &self.uid }
    }
}

/// Whether nothing has become of it yet. A decision never changes, and what became of it is final.
pub(super) fn is_open(found: &Arc<DynamicObject>) -> bool {
    found.metadata.deletion_timestamp.is_none() && !conditions(found).any(is_ours)
}

fn conditions(found: &DynamicObject) -> impl Iterator<Item = &Value> {
    found.data.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

fn is_ours(condition: &Value) -> bool {
    condition["type"] == RECORDED
}
