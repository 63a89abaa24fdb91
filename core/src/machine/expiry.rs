//! What time alone does: leases end in doubt, gates expire, probes fall due, answers, tombstones and old runs are dropped.

use super::effect::{DoubtCause, Effect, EffectState, SettledBy};
use super::event::{Event, Fact, Settled};
use super::gate::{Gate, GateKind, GatePhase};
use super::reply::Action;
use super::run::{RUN_MEMORY, Run};
use super::state::{State, TOMBSTONE};
use super::timed::Due;
use super::{Outcome, settle};
use crate::mutation::broken;
use crate::time::Timestamp;

/// Effects, gates and runs, each, that one tick sees to: the rest waits for the next, so that a long absence cannot make one huge append.
pub const TICK_MAX: usize = 1000;

pub(super) fn expire(state: &State, now: Timestamp) -> Outcome {
    let mut outcome = Outcome::default();
    for (_, effect) in state.effects.due_by(now).take(TICK_MAX) {
        age(state, effect, now, &mut outcome);
    }
    for (gate, _) in state.gates.due_by(now).take(TICK_MAX) {
        outcome.events.push(Event { ts: now, fact: Fact::GateExpired { gate: gate.clone() } });
        outcome.actions.push(Action::GateDecided { gate: gate.clone() });
    }
    for (run, _) in state.runs.due_by(now).take(TICK_MAX) {
        outcome.events.push(Event { ts: now, fact: Fact::RunForgotten { run: run.clone() } });
    }
    outcome
}

impl Due for Gate {
    /// The end of an approval that nobody has given, or used.
    fn due(&self) -> Option<Timestamp> {
        let can_expire = self.spec.kind == GateKind::Approval && matches!(self.phase, GatePhase::Pending | GatePhase::Approved);
        self.spec.expires_at.filter(|_| can_expire)
    }
}

impl Due for Run {
    /// A run stays while an effect of it is on record, above all one in doubt.
    fn due(&self) -> Option<Timestamp> {
        (self.effects_on_record == 0).then(|| self.last_at.after(RUN_MEMORY))
    }
}

impl Due for Effect {
    fn due(&self) -> Option<Timestamp> {
        match &self.state {
            EffectState::Dispatched => Some(self.lease_until),
            EffectState::InDoubt { since, .. } => self.doubt_due(*since),
            EffectState::Completed { at, .. } => Some(at.after(self.spec.retention)),
            EffectState::Tombstone { since } => Some(since.after(TOMBSTONE)),
            // A free record is kept as long as a tombstone would be, because late evidence may still speak of its grant.
            EffectState::Rejected { .. } | EffectState::NotSent { .. } => Some(self.settled_at.after(TOMBSTONE)),
        }
    }
}

impl Effect {
    /// The next probe, or the end of probing. `None` once a person is asked.
    fn doubt_due(&self, since: Timestamp) -> Option<Timestamp> {
        let probe = self.spec.probe.as_ref().filter(|_| self.resolution.is_none())?;
        let next = self.probed_at.map_or(since.after(probe.initial_delay), |last| last.after(probe.interval));
        Some(next.min(since.after(probe.give_up_after)))
    }
}

/// What the passing of an effect's time leads to.
fn age(state: &State, effect: &Effect, now: Timestamp, outcome: &mut Outcome) {
    let id = &effect.spec.effect;
    match &effect.state {
        EffectState::Dispatched => {
            let lost = if broken("lost_lease_is_doubt") {
                Settled::NotSent { by: SettledBy::Probe, proof: None }
            } else {
                Settled::InDoubt { cause: DoubtCause::LeaseLost, status: None }
            };
            settle::record(state, effect, effect.fence, lost, now, outcome);
        }
        EffectState::InDoubt { since, .. } => doubt(effect, *since, now, outcome),
        EffectState::Completed { .. } => {
            outcome.events.push(Event { ts: now, fact: Fact::AnswerDropped { effect: id.clone() } });
            outcome.actions.push(Action::DropBody { effect: id.clone() });
        }
        EffectState::Tombstone { .. } | EffectState::Rejected { .. } | EffectState::NotSent { .. } => {
            outcome.events.push(Event { ts: now, fact: Fact::EffectForgotten { effect: id.clone() } });
        }
    }
}

/// The next probe; a person's gate, once probing has gone on long enough.
fn doubt(effect: &Effect, since: Timestamp, now: Timestamp, outcome: &mut Outcome) {
    let Some(probe) = &effect.spec.probe else { return };
    if now >= since.after(probe.give_up_after) {
        return settle::open_resolution(effect, effect.fence, now, outcome);
    }
    outcome.actions.push(Action::Probe {
        agent: effect.spec.agent.clone(),
        effect: effect.spec.effect.clone(),
        fence: effect.fence,
        sealed: probe.sealed.clone(),
    });
}
