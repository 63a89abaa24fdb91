//! A person's word on a gate: whether it is taken, and what it completes.

use super::Outcome;
use super::command::DecideGate;
use super::effect::{EffectState, SettledBy};
use super::event::{Event, Fact, Settled};
use super::gate::{Gate, GateKind, GatePhase, GateVerdict, Vote};
use super::reply::{Action, Refuse, Reply};
use super::settle;
use super::state::State;
use crate::mutation::broken;
use crate::reason::Code;
use crate::time::Timestamp;

/// Longest reason that a person can give, in characters.
pub const REASON_MAX: usize = 1024;

/// Records one person's word; the word that completes a resolution settles its effect in the same append.
pub(super) fn decide_gate(state: &State, word: &DecideGate, now: Timestamp) -> Outcome {
    let refuse = |code, detail: String| {
        Outcome::reply(Reply::Refuse(Box::new(Refuse { gate: Some(word.gate.clone()), ..Refuse::new(code, detail) })))
    };
    let Some(gate) = state.gate(&word.gate) else {
        return refuse(Code::NotFound, format!("There is no gate {}.", word.gate));
    };
    if word.digest.is_some_and(|digest| digest != gate.spec.digest) {
        return refuse(Code::ApprovalMismatch, format!("Gate {} binds another request than the one decided here.", word.gate));
    }
    let fits = match gate.spec.kind {
        GateKind::Approval => matches!(word.verdict, GateVerdict::Approve | GateVerdict::Deny),
        GateKind::Resolution => matches!(word.verdict, GateVerdict::Executed | GateVerdict::NotExecuted),
    };
    if !fits {
        let detail = match gate.spec.kind {
            GateKind::Approval => "An approval is decided by approve or deny.",
            GateKind::Resolution => "A resolution is decided by executed or not-executed.",
        };
        return refuse(Code::BadRequest, detail.to_owned());
    }
    let is_heard = word.voucher.as_ref().is_some_and(|voucher| gate.heard.contains(&voucher.signature));
    if is_heard && !broken("a_word_is_heard_once") {
        return Outcome::default();
    }
    if gate.votes.get(&word.person).is_some_and(|vote| vote.verdict == word.verdict) {
        return Outcome::default();
    }
    if !gate.phase.is_open() {
        return refuse(Code::GateClosed, format!("Gate {} is {:?} already.", word.gate, gate.phase));
    }
    if gate.is_past(now) {
        return refuse(Code::ApprovalExpired, format!("Gate {} has expired; the next such call opens a new one.", word.gate));
    }
    if word.reason.chars().count() > REASON_MAX {
        return refuse(Code::BadRequest, format!("`reason` is longer than {REASON_MAX} characters."));
    }
    vote(state, gate, word, now)
}

fn vote(state: &State, gate: &Gate, word: &DecideGate, now: Timestamp) -> Outcome {
    let mut after = gate.clone();
    after.votes.insert(word.person.clone(), Vote { verdict: word.verdict, reason: word.reason.clone(), at: now });
    let fact = Fact::GateVoted {
        gate: word.gate.clone(),
        person: word.person.clone(),
        verdict: word.verdict,
        reason: word.reason.clone(),
        voucher: word.voucher.clone(),
    };
    let mut outcome = Outcome { events: vec![Event { ts: now, fact }], ..Outcome::default() };
    let phase = after.phase_by_votes();
    if !phase.is_open() {
        outcome.actions.push(Action::GateDecided { gate: word.gate.clone() });
    }
    let effect = gate.spec.effect.as_ref().and_then(|id| state.effect(id));
    if let Some(effect) = effect.filter(|effect| matches!(effect.state, EffectState::InDoubt { .. })) {
        let by = SettledBy::Person(word.person.clone());
        let settled = match phase {
            GatePhase::Executed => Some(Settled::Completed { answer: None, by }),
            GatePhase::NotExecuted => Some(Settled::NotSent { by, proof: None }),
            GatePhase::Pending
            | GatePhase::Approved
            | GatePhase::Denied
            | GatePhase::Expired
            | GatePhase::Consumed
            | GatePhase::Superseded => None,
        };
        if let Some(settled) = settled {
            settle::record(state, effect, effect.fence, settled, now, &mut outcome);
        }
    }
    outcome
}
