//! What time alone does: leases end in doubt, gates expire, probes fall due, answers and tombstones are dropped.

use super::command::Action;
use super::effect::{DoubtCause, Effect, EffectState, SettledBy};
use super::event::{Event, Fact, Settled};
use super::gate::{Gate, GateKind, GatePhase};
use super::state::{State, TOMBSTONE};
use super::{Outcome, settle};
use crate::mutation::broken;
use crate::time::Timestamp;

/// Events that one tick may append: the rest waits for the next, so that a long absence cannot make one huge append.
pub const TICK_MAX: usize = 1000;

pub(super) fn expire(state: &State, now: Timestamp) -> Outcome {
    let mut outcome = Outcome::default();
    for effect in state.effects.values() {
        if outcome.events.len() >= TICK_MAX {
            break;
        }
        age(state, effect, now, &mut outcome);
    }
    for gate in state.gates.values().filter(|gate| is_due(gate, now)).take(TICK_MAX) {
        outcome.events.push(Event { ts: now, fact: Fact::GateExpired { gate: gate.spec.gate.clone() } });
        outcome.actions.push(Action::GateDecided { gate: gate.spec.gate.clone() });
    }
    outcome
}

fn is_due(gate: &Gate, now: Timestamp) -> bool {
    gate.spec.kind == GateKind::Approval
        && matches!(gate.phase, GatePhase::Pending | GatePhase::Approved)
        && gate.spec.expires_at.is_some_and(|end| now >= end)
}

fn age(state: &State, effect: &Effect, now: Timestamp, outcome: &mut Outcome) {
    let id = &effect.spec.effect;
    match &effect.state {
        EffectState::Dispatched if now >= effect.lease_until => {
            let lost = if broken("lost_lease_is_doubt") {
                Settled::NotSent { by: SettledBy::Probe, proof: None }
            } else {
                Settled::InDoubt { cause: DoubtCause::LeaseLost, status: None }
            };
            settle::record(state, effect, effect.fence, lost, now, outcome);
        }
        EffectState::InDoubt { since, .. } => doubt(effect, *since, now, outcome),
        EffectState::Completed { at, .. } if now >= at.after(effect.spec.retention) => {
            outcome.events.push(Event { ts: now, fact: Fact::AnswerDropped { effect: id.clone() } });
            outcome.actions.push(Action::DropBody { effect: id.clone() });
        }
        EffectState::Tombstone { since } if now >= since.after(TOMBSTONE) => {
            outcome.events.push(Event { ts: now, fact: Fact::EffectForgotten { effect: id.clone() } });
        }
        // A free record is kept as long as a tombstone would be, because late evidence may still speak of its grant.
        EffectState::Rejected { .. } | EffectState::NotSent { .. } if now >= effect.granted_at.after(TOMBSTONE) => {
            outcome.events.push(Event { ts: now, fact: Fact::EffectForgotten { effect: id.clone() } });
        }
        EffectState::Dispatched
        | EffectState::Completed { .. }
        | EffectState::Tombstone { .. }
        | EffectState::Rejected { .. }
        | EffectState::NotSent { .. } => {}
    }
}

/// The next probe, when it is due; a person's gate, once probing has gone on long enough.
fn doubt(effect: &Effect, since: Timestamp, now: Timestamp, outcome: &mut Outcome) {
    let Some(probe) = &effect.spec.probe else { return };
    if now >= since.after(probe.give_up_after) {
        if effect.resolution.is_none() {
            settle::open_resolution(effect, effect.fence, now, outcome);
        }
        return;
    }
    let due = effect.probed_at.map_or(since.after(probe.initial_delay), |last| last.after(probe.interval));
    if now >= due {
        outcome.actions.push(Action::Probe {
            agent: effect.spec.agent.clone(),
            effect: effect.spec.effect.clone(),
            fence: effect.fence,
            sealed: probe.sealed.clone(),
        });
    }
}
