//! Every tenant's gates, for whoever keeps their objects in the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use kybernis_core::ids::{GateId, TenantId};
use kybernis_core::machine::{Gate, State};
use kybernis_core::time::{Millis, Timestamp};

use crate::board::{Board, Watched};

/// How long a gate is told of after its end: as long as its object stays (semantics: gates go 24 h after they end).
const MEMORY: Millis = Millis::from_secs(24 * 3600);

/// A tenant and one of its gates.
pub(crate) type Name = (TenantId, GateId);

/// The gates of all tenants. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gates(Board<Name, Arc<Gate>>);

impl Gates {
    pub(crate) fn new() -> Self {
        Self(Board::new())
    }

    /// The part that one tenant's writer tells of.
    pub(crate) fn of(&self, tenant: TenantId) -> TenantGates {
        TenantGates { gates: self.clone(), tenant, ended: BTreeSet::new() }
    }

    /// How many wait for people.
    pub(crate) fn open(&self) -> usize {
        self.0.pen().all().filter(|gate| gate.phase.is_open()).count()
    }

    /// Those that have not ended more than a day ago, and whatever changes after that.
    pub(crate) fn watch(&self) -> Watched<Name, Arc<Gate>> {
        self.0.watch()
    }
}

/// What one tenant's writer says of its gates.
#[derive(Debug)]
pub(crate) struct TenantGates {
    gates: Gates,
    tenant: TenantId,
    /// By their ends. One that was given back since has none, or a later one: its board says so.
    ended: BTreeSet<(Timestamp, GateId)>,
}

impl TenantGates {
    /// Tells of those that a commit has changed, and forgets those whose day is over. One that is told of again as it was is told to
    /// nobody: after a start, or an append of unknown fate, that is all of them.
    pub(crate) fn tell(&mut self, state: &State, touched: BTreeSet<GateId>, now: Timestamp) {
        let is_over = |ended: Timestamp| now.since(ended) > MEMORY;
        if touched.is_empty() && !self.ended.first().is_some_and(|(at, _)| is_over(*at)) {
            return;
        }
        let mut board = self.gates.0.pen();
        for gate in touched.into_iter().filter_map(|id| state.gate(&id)) {
            let name = (self.tenant.clone(), gate.spec.gate.clone());
            if gate.ended_at.is_some_and(is_over) {
                board.forget(&name);
                continue;
            }
            self.ended.extend(gate.ended_at.map(|at| (at, gate.spec.gate.clone())));
            if board.get(&name).is_none_or(|before| **before != *gate) {
                board.post(name, Arc::new(gate.clone()));
            }
        }
        while let Some((at, gate)) = self.ended.first().cloned().filter(|(at, _)| is_over(*at)) {
            self.ended.pop_first();
            let name = (self.tenant.clone(), gate);
            if board.get(&name).is_some_and(|gate| gate.ended_at == Some(at)) {
                board.forget(&name);
            }
        }
    }
}
