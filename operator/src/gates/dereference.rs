//! The first phase: the ledger's gates, their objects and the namespaces, at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::facts::Namespace;
use crate::gates::object::Found;
use crate::ledger::Gates;
use crate::status::Now;
use crate::watch::GateWatches;

/// What is known.
pub(super) struct Facts {
    pub(super) gates: Arc<Gates>,
    pub(super) objects: Vec<Found>,
    pub(super) namespaces: BTreeMap<String, Namespace>,
    pub(super) now: Now,
}

/// Looks around.
pub(super) fn dereference(gates: Arc<Gates>, watches: &GateWatches, now: Now) -> Facts {
    let objects = watches.gates().iter().filter_map(|found| Found::read(found)).collect();
    Facts { gates, objects, namespaces: watches.namespaces(), now }
}
