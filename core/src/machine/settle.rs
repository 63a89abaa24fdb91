//! Settle, Renew, Abandon, and the late words: evidence, observations, probes.
//!
//! A repeated word is a no-op. A word under an older fence adds evidence and never overwrites. Proof of execution beats a
//! resolution.

use super::Outcome;
use super::command::{Abandon, Evidence, Finding, Observation, Observe, Renew, Settle, SettleOutcome};
use super::effect::{Effect, EffectSpec, EffectState, Fence, NotSentProof, SettledBy};
use super::event::{Event, Fact, Settled};
use super::gate::{GateKind, GateSpec};
use super::reply::{Action, Refuse, Reply};
use super::state::{Decided, State};
use crate::ids::{BootId, EffectId, GateId, RequestDigest};
use crate::ksp::{SpanEnd, SpanStatus, Usage};
use crate::mutation::broken;
use crate::reason::Code;
use crate::time::{Millis, Timestamp};

/// The class of people who settle effects in doubt (`gateclasses/resolution`).
pub const RESOLUTION_CLASS: &str = "resolution";

pub(super) fn settle(state: &State, settle: &Settle, now: Timestamp) -> Outcome {
    let Some(effect) = state.effect(&settle.effect) else {
        return Outcome::reply(Reply::Refuse(Box::new(Refuse::new(Code::NotFound, format!("There is no effect {}.", settle.effect)))));
    };
    let proves_execution = matches!(settle.outcome, SettleOutcome::Completed(_));
    if settle.fence < effect.fence {
        return if proves_execution && !broken("late_proof_is_an_alarm") {
            late_proof(state, effect, settle.fence, Some(&settle.boot), now)
        } else {
            stands(effect, false)
        };
    }
    if settle.fence > effect.fence || effect.holder.0 != settle.boot {
        return stands(effect, false);
    }
    let outcome = match (&effect.state, &settle.outcome) {
        (EffectState::Dispatched | EffectState::InDoubt { .. }, _) => word(&settle.outcome),
        // Proof of execution beats a resolution by probe or person; a terminal outcome by proof is never overwritten.
        (EffectState::Completed { by, .. } | EffectState::NotSent { by }, SettleOutcome::Completed(_))
            if *by != SettledBy::Proof && !broken("proof_beats_resolution") =>
        {
            word(&settle.outcome)
        }
        // Proof that this grant was not sent confirms a "not executed", and takes back no "executed": what the probe or the
        // person saw on the far side may be an older grant's doing, and a freed key would make it twice.
        (EffectState::NotSent { by }, SettleOutcome::NotSent(_)) if *by != SettledBy::Proof => word(&settle.outcome),
        (EffectState::Completed { .. } | EffectState::NotSent { .. } | EffectState::Rejected { .. } | EffectState::Tombstone { .. }, _) => {
            return stands(effect, is_same(&effect.state, &settle.outcome));
        }
    };
    if matches!((&effect.state, &outcome), (EffectState::InDoubt { .. }, Settled::InDoubt { .. })) {
        return stands(effect, true);
    }
    let mut result = Outcome::default();
    if proves_execution && is_superseded(state, effect) {
        alarm(effect, effect.fence, now, &mut result);
    }
    let end = effect.is_in_flight().then(|| span_end(effect, settle, now));
    let returned = returned_approval(effect, &settle.outcome);
    push(effect, settle.fence, outcome, settle.fingerprint, returned, end, now, &mut result);
    result.reply = Reply::Settled { stands: !frees(&settle.outcome) || !is_done(effect), gate: opened_gate(&result) };
    result
}

/// Whether an older grant is proven to have been executed, so that no word about this one frees the key.
fn is_done(effect: &Effect) -> bool {
    !effect.proven_late.is_empty() && !broken("late_proof_closes_the_key")
}

const fn frees(outcome: &SettleOutcome) -> bool {
    matches!(outcome, SettleOutcome::NotSent(_) | SettleOutcome::Rejected { .. })
}

fn is_same(state: &EffectState, outcome: &SettleOutcome) -> bool {
    match (state, outcome) {
        (EffectState::Completed { .. }, SettleOutcome::Completed(_)) | (EffectState::NotSent { .. }, SettleOutcome::NotSent(_)) => true,
        (EffectState::Rejected { status }, SettleOutcome::Rejected { status: said, .. }) => status == said,
        _ => false,
    }
}

fn stands(effect: &Effect, stands: bool) -> Outcome {
    Outcome::reply(Reply::Settled { stands, gate: effect.resolution.clone().filter(|_| effect.is_in_doubt()) })
}

fn opened_gate(outcome: &Outcome) -> Option<GateId> {
    outcome.events.iter().find_map(|event| if let Fact::GateOpened { gate } = &event.fact { Some(gate.gate.clone()) } else { None })
}

fn word(outcome: &SettleOutcome) -> Settled {
    match outcome {
        SettleOutcome::Completed(answer) => Settled::Completed { answer: Some(answer.clone()), by: SettledBy::Proof },
        SettleOutcome::Rejected { status, .. } => Settled::Rejected { status: *status },
        SettleOutcome::NotSent(proof) => Settled::NotSent { by: SettledBy::Proof, proof: Some(*proof) },
        SettleOutcome::InDoubt { cause, status } => Settled::InDoubt { cause: *cause, status: *status },
    }
}

fn returned_approval(effect: &Effect, outcome: &SettleOutcome) -> Option<GateId> {
    match outcome {
        // A free record gave it back before, and by now another call may have used it.
        _ if effect.is_free() || broken("approval_is_given_back") => None,
        SettleOutcome::NotSent(_) | SettleOutcome::Rejected { not_executed: true, .. } => effect.spec.approval.clone(),
        SettleOutcome::Rejected { not_executed: false, .. } | SettleOutcome::Completed(_) | SettleOutcome::InDoubt { .. } => None,
    }
}

fn span_end(effect: &Effect, settle: &Settle, now: Timestamp) -> SpanEnd {
    let (status, code, hash) = match &settle.outcome {
        SettleOutcome::Completed(answer) => (SpanStatus::Ok, None, Some(answer.digest.to_string())),
        SettleOutcome::Rejected { status, .. } => (SpanStatus::Error, Some(format!("status_{status}")), None),
        SettleOutcome::NotSent(_) => (SpanStatus::Error, Some("not_sent".to_owned()), None),
        SettleOutcome::InDoubt { .. } => (SpanStatus::Error, Some(Code::EffectInDoubt.as_str().to_owned()), None),
    };
    let mut end = SpanEnd::new(now, effect.spec.run.clone(), effect.spec.span.clone(), status, settle.latency);
    end.error_code = code;
    end.output_hash = hash;
    end.usage = Some(Usage { bytes_in: Some(settle.bytes_in), bytes_out: Some(settle.bytes_out), ..Usage::default() });
    end
}

/// Records a settled outcome that no Settle carried: a probe's, a person's, a lost lease's.
pub(super) fn record(state: &State, effect: &Effect, fence: Fence, outcome: Settled, now: Timestamp, into: &mut Outcome) {
    debug_assert!(state.effect(&effect.spec.effect).is_some());
    let returned = match outcome {
        Settled::NotSent { .. } => effect.spec.approval.clone(),
        Settled::Completed { .. } | Settled::Rejected { .. } | Settled::InDoubt { .. } => None,
    };
    let end = match &outcome {
        Settled::InDoubt { .. } if effect.is_in_flight() => Some(closing(effect, Code::EffectInDoubt.as_str(), now)),
        Settled::NotSent { .. } if effect.is_in_flight() => Some(closing(effect, "not_sent", now)),
        Settled::InDoubt { .. } | Settled::NotSent { .. } | Settled::Completed { .. } | Settled::Rejected { .. } => None,
    };
    push(effect, fence, outcome, None, returned, end, now, into);
}

fn closing(effect: &Effect, code: &str, now: Timestamp) -> SpanEnd {
    let (run, span) = (effect.spec.run.clone(), effect.spec.span.clone());
    let mut end = SpanEnd::new(now, run, span, SpanStatus::Error, now.since(effect.granted_at));
    end.error_code = Some(code.to_owned());
    end
}

#[expect(clippy::too_many_arguments, reason = "the members of one fact, written once")]
fn push(
    effect: &Effect,
    fence: Fence,
    outcome: Settled,
    fingerprint: Option<crate::ids::Fingerprint>,
    approval_returned: Option<GateId>,
    end: Option<SpanEnd>,
    now: Timestamp,
    into: &mut Outcome,
) {
    let id = effect.spec.effect.clone();
    // What an older grant is proven to have done is done, whatever becomes of this one.
    let (outcome, approval_returned) = match outcome {
        Settled::NotSent { .. } | Settled::Rejected { .. } if is_done(effect) => {
            (Settled::Completed { answer: None, by: SettledBy::Proof }, None)
        }
        Settled::NotSent { .. } | Settled::Rejected { .. } | Settled::Completed { .. } | Settled::InDoubt { .. } => {
            (outcome, approval_returned)
        }
    };
    let in_doubt = matches!(outcome, Settled::InDoubt { .. });
    let end = end.map(Box::new);
    let fact = Fact::EffectSettled { effect: id.clone(), fence, outcome, fingerprint, approval_returned, proven_late: None, end };
    into.events.push(Event { ts: now, fact });
    into.actions.push(Action::Wake { effect: id });
    if in_doubt && effect.spec.probe.is_none() && effect.resolution.is_none() {
        open_resolution(effect, fence, now, into);
    }
}

/// Asks people whether the effect happened. The name is a function of effect and fence, so that it is asked once.
pub(super) fn open_resolution(effect: &Effect, fence: Fence, now: Timestamp, into: &mut Outcome) {
    use sha2::{Digest, Sha256};
    let hash = Sha256::new().chain_update(effect.spec.effect.as_str()).chain_update(fence.get().to_be_bytes()).finalize();
    let entropy = super::Entropy::new(std::array::from_fn(|i| hash[i]));
    let Ok(gate) = GateId::new(&entropy.name("gate", 0)) else { return };
    let spec = GateSpec {
        gate: gate.clone(),
        kind: GateKind::Resolution,
        agent: effect.spec.agent.clone(),
        run: effect.spec.run.clone(),
        span: effect.spec.span.clone(),
        tool: effect.spec.tool.clone(),
        action: effect.spec.action.clone(),
        summary: asked(&effect.spec),
        digest: RequestDigest::from_bytes(hash.into()),
        policy: String::new(),
        required: 1,
        class: RESOLUTION_CLASS.to_owned(),
        expires_at: None,
        effect: Some(effect.spec.effect.clone()),
        keys: Vec::new(),
    };
    into.events.push(Event { ts: now, fact: Fact::GateOpened { gate: Box::new(spec) } });
    into.actions.push(Action::GateOpened { gate });
}

/// What was to be done comes first, so that a list of gates tells one from another.
fn asked(spec: &EffectSpec) -> String {
    let EffectSpec { action, summary, .. } = spec;
    let question = format!("was {action} executed? Look at the far side.");
    if summary.is_empty() { question.replacen('w', "W", 1) } else { format!("{summary}: {question}") }
}

/// A grant older than the last one is proven to have been executed: an alarm, once, unless the only later one is proven not to
/// have been sent. Where the key is free, it no longer is. `holder` is who says so; a probe's word is the ledger's own question
/// answered.
fn late_proof(state: &State, effect: &Effect, fence: Fence, holder: Option<&BootId>, now: Timestamp) -> Outcome {
    let mut outcome = Outcome::reply(Reply::Settled { stands: false, gate: None });
    let is_news = !effect.proven_late.contains(&fence);
    let is_holders = effect.unproven.get(&fence).is_some_and(|known| holder.is_none_or(|holder| holder == known));
    let is_unsent = matches!(effect.state, EffectState::NotSent { by: SettledBy::Proof });
    let is_alone = is_holders && is_unsent && fence.next() == effect.fence && !is_superseded(state, effect);
    if is_news && !is_alone {
        alarm(effect, fence, now, &mut outcome);
    }
    if is_holders && effect.is_free() && !broken("late_proof_closes_the_key") {
        settled_by_proof(effect, fence, now, &mut outcome);
    }
    outcome
}

/// The effect is on record as executed by an older grant than the last, whose answer is not this record's to replay.
fn settled_by_proof(effect: &Effect, proven: Fence, now: Timestamp, into: &mut Outcome) {
    let id = effect.spec.effect.clone();
    let fact = Fact::EffectSettled {
        effect: id.clone(),
        fence: effect.fence,
        outcome: Settled::Completed { answer: None, by: SettledBy::Proof },
        fingerprint: None,
        approval_returned: None,
        proven_late: Some(proven),
        end: None,
    };
    into.events.push(Event { ts: now, fact });
    into.actions.push(Action::Wake { effect: id });
}

fn alarm(effect: &Effect, fence: Fence, now: Timestamp, into: &mut Outcome) {
    let id = effect.spec.effect.clone();
    into.events.push(Event { ts: now, fact: Fact::DuplicateObserved { effect: id.clone(), fence, run: effect.spec.run.clone() } });
    into.actions.push(Action::Alarm { effect: id });
}

/// Whether a free record's call was granted again under another record: one of its keys in a batch that was put together
/// otherwise, or an effect that went out under its own id while the ledger was away.
fn is_superseded(state: &State, effect: &Effect) -> bool {
    let elsewhere = |key| state.by_key(key).is_some_and(|holder| holder.spec.effect != effect.spec.effect);
    let (spec, is_keyless) = (&effect.spec, effect.spec.keys.is_empty());
    let went_alone = |other: &Effect| {
        let same_call = other.spec.agent == spec.agent && other.spec.run == spec.run && other.spec.principal == spec.principal;
        other.spec.adopted && other.spec.keys.is_empty() && other.spec.effect != spec.effect && same_call
    };
    let mut alike = state.by_meaning.get(&spec.meaning).into_iter().flatten().filter_map(|id| state.effects.get(id));
    effect.is_free()
        && (spec.keys.iter().any(elsewhere) || is_keyless && alike.any(|other| went_alone(other) && other.granted_at >= effect.granted_at))
}

pub(super) fn renew(state: &State, renew: &Renew, now: Timestamp) -> Outcome {
    let holds = |(id, fence): &&(EffectId, Fence)| state.effect(id).is_some_and(|effect| effect.holds(&renew.boot, *fence));
    let lost = renew.leases.iter().filter(|lease| !holds(lease)).cloned().collect();
    Outcome { events: observed(state, &renew.boot, &renew.observed, now), reply: Reply::Renewed { lost }, actions: Vec::new() }
}

/// The sidecar never used the permit: proof that nothing was sent. A decision that was not made yet never will be.
pub(super) fn abandon(state: &State, abandon: &Abandon, now: Timestamp) -> Outcome {
    match state.decisions.get(&(abandon.boot.clone(), abandon.decision.clone())) {
        Some(Decided::Abandoned) => Outcome::default(),
        None if broken("abandon_kills_a_late_decide") => Outcome::default(),
        None => {
            let fact = Fact::DecisionAbandoned { boot: abandon.boot.clone(), decision: abandon.decision.clone() };
            Outcome { events: vec![Event { ts: now, fact }], ..Outcome::default() }
        }
        Some(Decided::Granted(id)) => {
            let mine = |effect: &&Effect| effect.holder == (abandon.boot.clone(), abandon.decision.clone());
            let mut outcome = Outcome::default();
            if let Some(effect) = state.effect(id).filter(mine).filter(|effect| effect.is_in_flight() || effect.is_in_doubt()) {
                let settled = Settled::NotSent { by: SettledBy::Proof, proof: Some(NotSentProof::Abandoned) };
                record(state, effect, effect.fence, settled, now, &mut outcome);
            }
            outcome
        }
    }
}

pub(super) fn observe(state: &State, observe: &Observe, now: Timestamp) -> Outcome {
    let events = match observe {
        Observe::Seen { boot, observed: seen } => observed(state, boot, seen, now),
        // News each time that it leaves something behind: a sidecar that was cut off may come back and be granted more.
        Observe::BootGone { boot } => {
            let leaves = |effect: &Effect| effect.holder.0 == *boot && !effect.is_free() && !effect.read && !effect.caller_gone;
            let is_news = state.effects().any(leaves);
            let fact = || Event { ts: now, fact: Fact::BootGone { boot: boot.clone() } };
            is_news.then(fact).into_iter().collect()
        }
    };
    Outcome { events, ..Outcome::default() }
}

/// The observations that say something new about grants of this boot; where the first caller is gone, another boot may have
/// given its answer to one that read it.
pub(super) fn observed(state: &State, boot: &BootId, seen: &[Observation], now: Timestamp) -> Vec<Event> {
    let is_news = |seen: &&Observation| {
        state.effect(&seen.effect).is_some_and(|effect| {
            let holder = &effect.holder.0;
            effect.fence == seen.fence
                && match seen.seen {
                    super::Seen::Read => !effect.read && (holder == boot || effect.caller_gone),
                    super::Seen::CallerGone => !effect.caller_gone && holder == boot,
                }
        })
    };
    let fact = |seen: &Observation| Fact::CallerSeen { effect: seen.effect.clone(), fence: seen.fence, seen: seen.seen };
    seen.iter().filter(is_news).map(|seen| Event { ts: now, fact: fact(seen) }).collect()
}

/// A probe's word. "Executed" settles at once; "not executed" only after lease end and horizon; unsure changes nothing.
pub(super) fn evidence(state: &State, evidence: &Evidence, now: Timestamp) -> Outcome {
    let Some(effect) = state.effect(&evidence.effect) else { return Outcome::default() };
    if evidence.finding == Finding::Executed && evidence.fence < effect.fence {
        return Outcome { reply: Reply::Done, ..late_proof(state, effect, evidence.fence, None, now) };
    }
    if evidence.fence != effect.fence {
        return Outcome::default();
    }
    let by = SettledBy::Probe;
    let settled = match (evidence.finding, &effect.state) {
        (Finding::Executed, EffectState::InDoubt { .. }) if !broken("probe_settles") => Settled::Completed { answer: None, by },
        (Finding::Executed, EffectState::NotSent { by: SettledBy::Person(_) | SettledBy::Probe }) => {
            Settled::Completed { answer: None, by }
        }
        (Finding::NotExecuted, EffectState::InDoubt { .. }) if counts(effect, evidence.asked_at) => Settled::NotSent { by, proof: None },
        (Finding::Executed | Finding::NotExecuted | Finding::Unsure, _) => return Outcome::default(),
    };
    let mut outcome = Outcome::default();
    if evidence.finding == Finding::Executed && is_superseded(state, effect) {
        alarm(effect, effect.fence, now, &mut outcome);
    }
    record(state, effect, effect.fence, settled, now, &mut outcome);
    outcome
}

/// Whether a probe that was asked for at `asked` could no longer be overtaken by the request itself.
fn counts(effect: &Effect, asked: Timestamp) -> bool {
    if broken("not_executed_needs_a_horizon") {
        return true;
    }
    let horizon: Option<Millis> = effect.spec.probe.as_ref().and_then(|probe| probe.settle_horizon);
    horizon.is_some_and(|horizon| asked >= effect.lease_until.after(horizon))
}
