//! Decide: everything that must hold before the first byte, in one append.

use super::command::{Decide, SUMMARY_NOTE};
use super::effect::{Effect, EffectSpec, Fence, KeyLevel};
use super::event::{Event, Fact};
use super::gate::{self, Standing};
use super::reply::{Grant, Refuse, Reply};
use super::state::{Decided, State};
use super::{Entropy, Outcome, lookup, run, settle};
use crate::ids::EffectId;
use crate::ksp::{SpanStart, SpanType};
use crate::mutation::broken;
use crate::reason::Code;
use crate::time::Timestamp;

/// Most keys that one batch may claim: one append must stay small.
pub const BATCH_MAX: usize = 256;

/// The span attribute that says what a call in Audit mode met.
const AUDIT_NOTE: &str = "audit_effect";

pub(super) fn decide(state: &State, decide: &Decide, now: Timestamp, entropy: Entropy) -> Outcome {
    match state.decisions.get(&(decide.boot.clone(), decide.decision.clone())) {
        Some(Decided::Granted(id)) if !broken("a_repeat_gets_the_same_grant") => return Outcome::reply(repeated(state, id, decide)),
        Some(Decided::Abandoned) => return refuse(Code::DecisionAbandoned, "The sidecar gave this decision up before it was made."),
        Some(Decided::Granted(_)) | None => {}
    }
    // A spool keeps a claim for longer than decisions are remembered, and hands it over again if it did not hear of the first time.
    if let Some(known) = decide.adopts.as_ref().and_then(|own| state.effect(own)) {
        return if known.holder == (decide.boot.clone(), decide.decision.clone()) {
            Outcome::reply(repeated(state, &known.spec.effect, decide))
        } else {
            refuse(Code::BadRequest, "`adopts` names an effect that another decision put on record.")
        };
    }
    if decide.keys.len() > BATCH_MAX {
        return refuse(Code::IdempotencyKeyInvalid, "`effect.key` names more than 256 effects in one call; split the batch.");
    }
    let opened = match run::enter(state, &decide.run, &decide.agent, decide.explicit_run, now) {
        Ok(opened) => opened,
        Err(foreign) => return Outcome::reply(Reply::Refuse(foreign)),
    };
    // What this sidecar saw of its callers bears on what the call meets, so it is judged first.
    let seen = settle::observed(state, &decide.boot, &decide.observed, now);
    let mut outcome = match lookup::meets(&lookup::Known { state, seen: &seen }, decide, now) {
        Some(reply) if decide.audit => admit(state, &beside(decide, &reply), now, entropy),
        Some(reply) => Outcome::reply(reply),
        None => admit(state, decide, now, entropy),
    };
    let before = seen.into_iter().chain(opened.filter(|_| !outcome.events.is_empty()));
    outcome.events.splice(0..0, before);
    outcome
}

/// The same call as it goes in Audit mode beside what it meets: it claims nothing, and its span says what would have been.
fn beside(decide: &Decide, met: &Reply) -> Decide {
    let would = match met {
        Reply::Replay(replay) => format!("replay: the answer of span {}", replay.span),
        Reply::Refuse(refuse) => format!("refuse: {}: {}", refuse.code.as_str(), refuse.detail),
        Reply::Wait { effect } => format!("wait: for effect {effect}, which is in flight"),
        Reply::Grant(_) | Reply::Renewed { .. } | Reply::Settled { .. } | Reply::SpansAcked { .. } | Reply::Done => String::new(),
    };
    let mut beside = Decide { level: KeyLevel::Derived, keys: Vec::new(), ..decide.clone() };
    beside.notes.insert(AUDIT_NOTE.to_owned(), would);
    beside
}

fn refuse(code: Code, detail: &str) -> Outcome {
    Outcome::reply(Reply::Refuse(Box::new(Refuse::new(code, detail.to_owned()))))
}

/// The same boot asks the same again: it gets the same grant, or what has become of it.
fn repeated(state: &State, id: &EffectId, decide: &Decide) -> Reply {
    match state.effect(id) {
        Some(effect) if effect.holder.1 == decide.decision && effect.is_in_flight() => Reply::Grant(Box::new(grant_of(effect))),
        Some(effect) if effect.is_in_doubt() => lookup::in_doubt(effect),
        Some(_) | None => {
            Reply::Refuse(Box::new(Refuse::new(Code::DecisionAbandoned, "This decision's grant was settled already.".to_owned())))
        }
    }
}

fn grant_of(effect: &Effect) -> Grant {
    Grant { effect: effect.spec.effect.clone(), fence: effect.fence, generation: effect.generation, approval: effect.spec.approval.clone() }
}

/// Nothing stands in the way: the approval, if one is due, and the claim.
fn admit(state: &State, decide: &Decide, now: Timestamp, entropy: Entropy) -> Outcome {
    let approval = match &decide.approval {
        None => None,
        Some(_) if decide.fingerprint.is_none() => {
            return refuse(
                Code::BodyTooLargeForPolicy,
                "A call that needs an approval must fit the buffering bound (`Policy.spec.bodyBytes`), because an approval binds its bytes.",
            );
        }
        Some(needed) => match gate::standing(state, decide, needed, now, entropy) {
            Standing::Approved(gate) => Some(gate),
            Standing::Refused(outcome) => return outcome,
        },
    };
    let freed = freed(state, decide);
    let (effect, fence, generation) = match (&decide.adopts, freed) {
        (Some(own), _) => (own.clone(), Fence::FIRST, 0),
        (None, Some(effect)) => (effect.spec.effect.clone(), effect.fence.next(), effect.next_generation()),
        (None, None) => match EffectId::new(&entropy.name("eff", 1)) {
            Ok(id) => (id, Fence::FIRST, 0),
            Err(_) => return Outcome::default(),
        },
    };
    let spec = EffectSpec {
        effect: effect.clone(),
        agent: decide.agent.clone(),
        run: decide.run.clone(),
        span: decide.span.clone(),
        tool: decide.tool.clone(),
        action: decide.action.clone(),
        summary: summary(decide).to_owned(),
        level: decide.level,
        keys: decide.keys.clone(),
        meaning: decide.meaning,
        fingerprint: decide.fingerprint,
        principal: decide.principal,
        retention: decide.retention,
        probe: decide.probe.clone(),
        approval: approval.clone(),
        policy: decide.policy,
        adopted: decide.adopts.is_some() || freed.is_some_and(|effect| effect.spec.adopted),
    };
    let fact = Fact::EffectGranted {
        spec: Box::new(spec),
        fence,
        generation,
        boot: decide.boot.clone(),
        decision: decide.decision.clone(),
        lease: decide.lease,
        start: Box::new(span_start(decide, &effect, now)),
    };
    Outcome {
        events: vec![Event { ts: now, fact }],
        reply: Reply::Grant(Box::new(Grant { effect, fence, generation, approval })),
        actions: Vec::new(),
    }
}

/// The free record that this call takes up again, so that late evidence of an older grant is recognised.
fn freed<'s>(state: &'s State, decide: &Decide) -> Option<&'s Effect> {
    let same = |effect: &&Effect| effect.is_free() && effect.spec.keys == decide.keys && effect.spec.level == decide.level;
    match decide.keys.first() {
        Some(key) => state.by_key(key).filter(same),
        None => {
            let ids = state.by_meaning.get(&decide.meaning).into_iter().flatten();
            let mine = |effect: &&Effect| {
                effect.spec.agent == decide.agent && effect.spec.run == decide.run && effect.spec.principal == decide.principal
            };
            // The last one: an adopted effect stands beside the record that it would have taken up.
            ids.filter_map(|id| state.effects.get(id)).filter(same).rfind(mine)
        }
    }
}

/// The request in short, as a gate shows it.
fn summary(decide: &Decide) -> &str {
    let noted = || decide.notes.get(SUMMARY_NOTE).map(String::as_str);
    decide.approval.as_ref().map(|approval| approval.summary.as_str()).or_else(noted).unwrap_or_default()
}

fn span_start(decide: &Decide, effect: &EffectId, now: Timestamp) -> SpanStart {
    let mut start = SpanStart::new(now, decide.run.clone(), decide.span.clone(), SpanType::SideEffect, &decide.action);
    start.parent_span_id = decide.parent_span.clone();
    start.attempt = Some(decide.attempt);
    start.idempotency_key = Some(decide.key_hint.clone()).filter(|hint| !hint.is_empty());
    start.input_hash = decide.fingerprint.map(|print| print.to_string());
    start.attributes =
        decide.notes.iter().filter(|(name, _)| *name != SUMMARY_NOTE).map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let mut note = |name: &str, value: &str| start.attributes.insert(name.to_owned(), value.into());
    note("effect_id", effect.as_str());
    note("tool", decide.tool.as_str());
    if !decide.policy_id.is_empty() {
        note("policy_id", &decide.policy_id);
    }
    start
}
