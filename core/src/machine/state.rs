//! What the ledger knows: effects, gates and runs with the indexes that a decision looks through.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::effect::{Effect, EffectState};
use super::gate::Gate;
use super::run::Run;
use super::timed::Timed;
use crate::ids::{AgentId, BootId, ChainHash, DecisionId, EffectId, GateId, KeyDigest, Meaning, RequestDigest, RunId, ToolName};
use crate::time::{Millis, Timestamp};

/// How long a decision id is remembered: far longer than a sidecar repeats or gives up a Decide.
pub const DECISION_MEMORY: Millis = Millis::from_secs(3600);

/// How long a tombstone refuses a repeat after the answer's retention.
pub const TOMBSTONE: Millis = Millis::from_secs(30 * 24 * 3600);

/// The state of one tenant's shard: a fold over its events.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(super) last_ts: Timestamp,
    pub(super) effects: Timed<EffectId, Effect>,
    /// How many of them are in doubt.
    pub(super) in_doubt: usize,
    pub(super) by_key: HashMap<KeyDigest, EffectId>,
    pub(super) by_meaning: HashMap<Meaning, Vec<EffectId>>,
    pub(super) decisions: HashMap<(BootId, DecisionId), Decided>,
    pub(super) decisions_by_age: VecDeque<(Timestamp, (BootId, DecisionId))>,
    pub(super) gates: Timed<GateId, Gate>,
    /// Changed since somebody last took note.
    pub(super) touched_gates: BTreeSet<GateId>,
    /// The last gate of each class for a request.
    pub(super) gates_by_request: HashMap<(AgentId, ToolName, RequestDigest), BTreeMap<String, GateId>>,
    pub(super) runs: Timed<RunId, Run>,
    pub(super) spans_through: HashMap<BootId, u64>,
}

/// What a decision id led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decided {
    /// A grant of this effect.
    Granted(EffectId),
    /// Nothing, and nothing ever will.
    Abandoned,
}

/// What a run's chain starts from.
pub const CHAIN_START: ChainHash = ChainHash::from_bytes([0; 32]);

impl State {
    /// The last event's instant; commands come at this instant or later.
    pub const fn last_ts(&self) -> Timestamp {
        self.last_ts
    }

    /// One effect's record.
    pub fn effect(&self, id: &EffectId) -> Option<&Effect> {
        self.effects.get(id)
    }

    /// Every effect on record, in no order.
    pub fn effects(&self) -> impl Iterator<Item = &Effect> {
        self.effects.values()
    }

    /// How many effects are in doubt.
    pub const fn effects_in_doubt(&self) -> usize {
        self.in_doubt
    }

    /// One gate's record.
    pub fn gate(&self, id: &GateId) -> Option<&Gate> {
        self.gates.get(id)
    }

    /// Which gates have changed since this was last asked.
    pub fn take_touched_gates(&mut self) -> BTreeSet<GateId> {
        std::mem::take(&mut self.touched_gates)
    }

    /// Every gate on record, by name.
    pub fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.gates.values()
    }

    /// One run's record.
    pub fn run(&self, id: &RunId) -> Option<&Run> {
        self.runs.get(id)
    }

    /// Every run on record, by id.
    pub fn runs(&self) -> impl Iterator<Item = (&RunId, &Run)> {
        self.runs.iter()
    }

    /// The effect that holds `key`, free or not.
    pub fn by_key(&self, key: &KeyDigest) -> Option<&Effect> {
        self.by_key.get(key).and_then(|id| self.effects.get(id))
    }

    /// Whether this decision led to a grant, or was given up: its repeat is answered from that, whatever policy says now.
    pub fn has_decided(&self, boot: &BootId, decision: &DecisionId) -> bool {
        self.decisions.contains_key(&(boot.clone(), decision.clone()))
    }

    /// Effects of this agent that mean the same, whatever named them.
    pub fn alike(&self, agent: &AgentId, meaning: &Meaning) -> impl Iterator<Item = &Effect> {
        let ids = self.by_meaning.get(meaning).into_iter().flatten();
        ids.filter_map(|id| self.effects.get(id)).filter(move |effect| effect.spec.agent == *agent)
    }

    /// Sidecars whose grants are in flight or whose answers may be unread, and which were not said to be gone since.
    pub fn boots_with_callers(&self) -> std::collections::HashSet<BootId> {
        let open = |effect: &&Effect| (effect.is_in_flight() || effect.is_unread()) && !effect.caller_gone;
        self.effects.values().filter(open).map(|effect| effect.holder.0.clone()).collect()
    }

    /// The highest span number of `boot` on record; zero when there is none.
    pub fn spans_through(&self, boot: &BootId) -> u64 {
        self.spans_through.get(boot).copied().unwrap_or(0)
    }

    /// Gives every grant a fresh lease, as the ledger does when it starts: it cannot know what was renewed while it was away.
    /// The lease of an effect in doubt may have been renewed just before the doubt, and a probe's "not executed" counts by
    /// its end.
    pub fn restart_leases(&mut self, now: Timestamp, lease: Millis) {
        self.effects.change_all(|effect| match effect.state {
            EffectState::Dispatched => effect.lease_until = effect.lease_until.max(now.after(lease)),
            EffectState::InDoubt { since, .. } => effect.lease_until = effect.lease_until.max(since.after(lease)),
            EffectState::Completed { .. } | EffectState::Rejected { .. } | EffectState::NotSent { .. } | EffectState::Tombstone { .. } => {}
        });
    }

    /// Moves the leases that a Renew named. Not an event: a lease lost with the ledger's memory starts anew.
    pub fn extend_leases(&mut self, renew: &super::Renew, now: Timestamp) {
        for (id, fence) in &renew.leases {
            if let Some(mut effect) = self.effects.get_mut(id).filter(|effect| effect.holds(&renew.boot, *fence)) {
                effect.lease_until = effect.lease_until.max(now.after(renew.lease));
            }
        }
    }

    /// Notes that the ledger asked for a probe at `now`; memory only.
    pub fn note_probe(&mut self, effect: &EffectId, now: Timestamp) {
        if let Some(mut effect) = self.effects.get_mut(effect) {
            effect.probed_at = Some(now);
        }
    }

    /// The last gate of each class that was opened for this request.
    pub(super) fn gates_for(&self, agent: &AgentId, tool: &ToolName, digest: RequestDigest) -> impl Iterator<Item = &Gate> {
        let by_class = self.gates_by_request.get(&(agent.clone(), tool.clone(), digest));
        by_class.into_iter().flat_map(BTreeMap::values).filter_map(|id| self.gates.get(id))
    }

    pub(super) fn open_gates(&self, agent: &AgentId, tool: &ToolName) -> usize {
        let of_tool = |gate: &&Gate| gate.phase.is_open() && gate.spec.agent == *agent && gate.spec.tool == *tool;
        self.gates.values().filter(of_tool).filter(|gate| gate.spec.effect.is_none()).count()
    }

    /// An unused approval for another request under one of the same keys.
    pub(super) fn gate_on_keys(&self, agent: &AgentId, tool: &ToolName, keys: &[KeyDigest], digest: RequestDigest) -> Option<&Gate> {
        self.gates.values().find(|gate| {
            gate.phase == super::GatePhase::Approved
                && gate.spec.digest != digest
                && gate.spec.agent == *agent
                && gate.spec.tool == *tool
                && gate.spec.keys.iter().any(|key| keys.contains(key))
        })
    }
}

impl Effect {
    /// Whether this boot holds the effect's live grant under that fence.
    pub fn holds(&self, boot: &BootId, fence: super::Fence) -> bool {
        self.is_in_flight() && self.fence == fence && self.holder.0 == *boot
    }
}
