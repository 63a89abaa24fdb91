//! A Gate object, as the API server has it. One that is not in our own types still has its name, and is judged by that.

use kube::core::DynamicObject;
use kybernis_crds::kinds::{GateSpec, GateStatus};
use serde::de::DeserializeOwned;

use crate::events::About;
use crate::ledger::Place;

/// The object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) place: Place,
    pub(crate) uid: String,
    /// Counts changes of the spec.
    pub(crate) generation: i64,
    /// Names this very state, status included.
    pub(crate) version: String,
    /// On its way out.
    pub(crate) deleting: bool,
    /// `None`: not one of ours.
    pub(crate) spec: Option<GateSpec>,
    pub(crate) status: GateStatus,
}

impl Found {
    /// What a watch or a write brought; `None` for what no API server sends.
    pub(crate) fn read(found: &DynamicObject) -> Option<Self> {
        let metadata = &found.metadata;
        Some(Self {
            place: Place { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? },
            uid: metadata.uid.clone()?,
            generation: metadata.generation.unwrap_or_default(),
            version: metadata.resource_version.clone().unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            spec: part(found, "spec"),
            status: part(found, "status").unwrap_or_default(),
        })
    }

    pub(crate) fn about(&self) -> About<'_> {
        About { namespace: &self.place.namespace, name: &self.place.name, uid: &self.uid }
    }
}

fn part<T: DeserializeOwned>(found: &DynamicObject, name: &str) -> Option<T> {
    found.data.get(name).and_then(|part| T::deserialize(part).ok())
}
