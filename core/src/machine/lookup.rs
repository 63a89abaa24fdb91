//! What a call meets: an effect under one of its keys, or one that means the same.
//!
//! The order of the checks is the contract's: in doubt, another fingerprint or principal, completed, in flight, expired.

use super::command::{Decide, DerivedMode, Seen};
use super::effect::{Effect, EffectState, KeyLevel};
use super::event::{Event, Fact};
use super::reply::{Refuse, Replay, Reply};
use super::state::State;
use crate::mutation::broken;
use crate::reason::Code;
use crate::time::{Millis, Timestamp};

/// What to tell a caller who met another's flight, so that it does not come back at once.
pub(super) const IN_FLIGHT_RETRY: Millis = Millis::from_secs(1);

/// What is on record, and what the asking sidecar has just seen of its callers: it will be on record with the answer.
pub(super) struct Known<'a> {
    pub(super) state: &'a State,
    pub(super) seen: &'a [Event],
}

impl Known<'_> {
    fn is_gone(&self, effect: &Effect) -> bool {
        (effect.caller_gone || self.saw(effect, Seen::CallerGone)) && !broken("rollout_forgets_nothing")
    }

    fn is_unread(&self, effect: &Effect) -> bool {
        let read = effect.read || self.saw(effect, Seen::Read);
        (!read || broken("read_goes_through")) && !broken("unread_replays")
    }

    fn saw(&self, effect: &Effect, what: Seen) -> bool {
        self.seen.iter().any(|event| {
            matches!(&event.fact, Fact::CallerSeen { effect: id, fence, seen }
                if *id == effect.spec.effect && *fence == effect.fence && *seen == what)
        })
    }
}

/// The answer that an earlier effect forces, or `None` when nothing stands in the way.
pub(super) fn meets(known: &Known<'_>, decide: &Decide, now: Timestamp) -> Option<Reply> {
    by_key(known.state, decide).or_else(|| by_meaning(known, decide, now))
}

fn by_key(state: &State, decide: &Decide) -> Option<Reply> {
    let looked_at = if broken("batch_all_or_none") { 1 } else { decide.keys.len() };
    let held: Vec<&Effect> =
        decide.keys.iter().take(looked_at).filter_map(|key| state.by_key(key)).filter(|effect| !effect.is_free()).collect();
    // A batch is claimed all or none, so the worst of what its keys meet decides, in the contract's order.
    let first = |test: fn(&Effect) -> bool| held.iter().copied().find(|effect| test(effect));
    if let Some(effect) = first(Effect::is_in_doubt).filter(|_| !broken("doubt_refuses")) {
        return Some(in_doubt(effect));
    }
    if let Some(effect) = held.iter().copied().find(|effect| reused(effect, decide)) {
        return Some(key_reused(effect));
    }
    if let Some(effect) = first(|effect| matches!(effect.state, EffectState::Completed { .. })) {
        return Some(if is_same_batch(effect, decide) { replay(effect) } else { key_reused(effect) });
    }
    if let Some(effect) = first(Effect::is_in_flight) {
        return Some(in_flight(effect, decide));
    }
    first(|effect| matches!(effect.state, EffectState::Tombstone { .. })).map(expired)
}

/// The same keys in any order. Where the keys stand outside the body (in the path, in a header), two batches can share one
/// key and one fingerprint, and the answer to the first says nothing of the second's other effects.
fn is_same_batch(effect: &Effect, decide: &Decide) -> bool {
    let (first, second) = (&effect.spec.keys, &decide.keys);
    first.iter().all(|key| second.contains(key)) && second.iter().all(|key| first.contains(key))
}

/// Another body or another principal under the same key. A body that is still being hashed is compared once it is known.
fn reused(effect: &Effect, decide: &Decide) -> bool {
    let other_body = match (effect.spec.fingerprint, decide.fingerprint) {
        (Some(first), Some(second)) => first != second,
        (None, _) | (_, None) => false,
    };
    other_body && !broken("other_body_refused") || effect.spec.principal != decide.principal && !broken("other_principal_refused")
}

fn by_meaning(known: &Known<'_>, decide: &Decide, now: Timestamp) -> Option<Reply> {
    if decide.derived == DerivedMode::Off {
        return None;
    }
    let alike = || known.state.alike(&decide.agent, &decide.meaning);
    let here = |effect: &&Effect| effect.spec.run == decide.run || known.is_gone(effect);
    if let Some(effect) = alike().find(|effect| effect.is_in_doubt() && !broken("doubt_by_meaning") && !broken("doubt_refuses")) {
        return Some(in_doubt(effect));
    }
    if let Some(effect) = alike().filter(here).find(|effect| effect.is_in_flight() && !broken("flight_by_meaning")) {
        return Some(in_flight(effect, decide));
    }
    let same_principal = |effect: &&Effect| effect.spec.principal == decide.principal;
    let repeated = alike().filter(same_principal).find(|effect| repeats_by_meaning(known, effect, decide, now))?;
    Some(if matches!(repeated.state, EffectState::Tombstone { .. }) { expired(repeated) } else { replay(repeated) })
}

/// Whether the call surely repeats this effect, which is done. One whose answer is no longer kept is none the less done.
fn repeats_by_meaning(known: &Known<'_>, effect: &Effect, decide: &Decide, now: Timestamp) -> bool {
    let age = match &effect.state {
        EffectState::Completed { at, .. } => now.since(*at),
        EffectState::Tombstone { since } if !broken("a_tombstone_is_met_by_meaning") => {
            Millis::new(now.since(*since).get().saturating_add(effect.spec.retention.get()))
        }
        EffectState::Tombstone { .. }
        | EffectState::Dispatched
        | EffectState::Rejected { .. }
        | EffectState::NotSent { .. }
        | EffectState::InDoubt { .. } => return false,
    };
    if known.is_unread(effect) && (effect.spec.run == decide.run || known.is_gone(effect)) {
        return true;
    }
    let everywhere = decide.explicit_run && !broken("explicit_run_replays") || decide.derived == DerivedMode::Replay;
    everywhere
        && decide.level == KeyLevel::Derived
        && effect.spec.level == KeyLevel::Derived
        && effect.spec.run == decide.run
        && age <= decide.derived_window
}

/// 423 with the gate's name, and the far side's status where there was one.
pub(super) fn in_doubt(effect: &Effect) -> Reply {
    let status = match effect.state {
        EffectState::InDoubt { status, .. } => status,
        EffectState::Dispatched
        | EffectState::Completed { .. }
        | EffectState::Rejected { .. }
        | EffectState::NotSent { .. }
        | EffectState::Tombstone { .. } => None,
    };
    let detail = match &effect.resolution {
        Some(gate) => format!(
            "Nobody knows yet whether the first call was executed. Look at the far side, then decide gate {gate}: executed or not-executed."
        ),
        None => "Nobody knows yet whether the first call was executed; the tool's probe is asking the far side.".to_owned(),
    };
    Reply::Refuse(Box::new(Refuse {
        gate: effect.resolution.clone(),
        upstream_status: status,
        dedupe_of: Some(effect.spec.span.clone()),
        ..Refuse::new(Code::EffectInDoubt, detail)
    }))
}

fn key_reused(effect: &Effect) -> Reply {
    let detail = "This idempotency key named another request before (other body, principal or batch). Use a new key for a new intention.";
    Reply::Refuse(Box::new(Refuse {
        dedupe_of: Some(effect.spec.span.clone()),
        ..Refuse::new(Code::IdempotencyKeyReused, detail.to_owned())
    }))
}

fn in_flight(effect: &Effect, decide: &Decide) -> Reply {
    if !decide.patience_over && !broken("flight_waits") {
        return Reply::Wait { effect: effect.spec.effect.clone() };
    }
    let detail = "The first call with this key is still on its way; ask again for its answer.";
    Reply::Refuse(Box::new(Refuse {
        dedupe_of: Some(effect.spec.span.clone()),
        retry_after: Some(IN_FLIGHT_RETRY),
        ..Refuse::new(Code::EffectInFlight, detail.to_owned())
    }))
}

fn expired(effect: &Effect) -> Reply {
    let detail = "This effect was executed; its answer is no longer kept. Use a new key for a new intention.";
    Reply::Refuse(Box::new(Refuse { dedupe_of: Some(effect.spec.span.clone()), ..Refuse::new(Code::EffectExpired, detail.to_owned()) }))
}

fn replay(effect: &Effect) -> Reply {
    let EffectState::Completed { answer, by, .. } = &effect.state else { return Reply::Done };
    match answer {
        Some(answer) => Reply::Replay(Box::new(Replay {
            effect: effect.spec.effect.clone(),
            fence: effect.fence,
            span: effect.spec.span.clone(),
            answer: answer.clone(),
        })),
        None => {
            let detail = format!("It was executed (settled by {}); there is no answer to replay.", by.phrase());
            Reply::Refuse(Box::new(Refuse { dedupe_of: Some(effect.spec.span.clone()), ..Refuse::new(Code::ReplayUnavailable, detail) }))
        }
    }
}
