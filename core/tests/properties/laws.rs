//! The contract's rules, each as a judgement of one transition. They use what the onlooker knows, never the machine's reasons.

use std::collections::{BTreeMap, HashMap, HashSet};

use kybernis_core::ids::KeyDigest;
use kybernis_core::machine::*;
use kybernis_core::reason::Code;
use kybernis_core::time::Timestamp;

use crate::names;
use crate::world::{Granted, Transition};

/// A rule: `Err` says how it was broken.
pub(crate) type Law = fn(&Transition<'_>) -> Result<(), String>;

fn check(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

pub(crate) fn one_live_permit_per_key_and_fence(t: &Transition<'_>) -> Result<(), String> {
    let mut claimed: HashMap<KeyDigest, &Effect> = HashMap::new();
    // Proof that came after a dispatch in another batch: the alarm is all that is left to do.
    let is_alarm = |effect: &&Effect| t.world.grant(&effect.spec.effect, effect.fence).is_some_and(|grant| grant.proven_late);
    for effect in t.after.effects().filter(|effect| !effect.is_free() && !is_alarm(effect)) {
        for key in &effect.spec.keys {
            if let Some(other) = claimed.insert(*key, effect).filter(|other| other.spec.effect != effect.spec.effect) {
                return Err(format!("one key, two claims: {key:?} by {:?} and {:?}", other.state, effect.state));
            }
        }
    }
    let Some(grant) = t.new_grant() else {
        if let (Reply::Grant(grant), Command::Decide(ask)) = (&t.outcome.reply, &t.command) {
            let first = t.world.grant(&grant.effect, grant.fence);
            return check(first.is_some_and(|first| first.ask.decision == ask.decision && first.ask.boot == ask.boot), || {
                "one permit, two decisions: a grant was handed to another call than the one that got it".to_owned()
            });
        }
        return Ok(());
    };
    let earlier = &t.world.grants[..t.grants_before];
    check(!earlier.iter().any(|old| old.effect == grant.effect && old.fence == grant.fence), || {
        format!("one fence granted twice: {} {:?}", grant.effect, grant.fence)
    })
}

pub(crate) fn fence_and_generation_rise_as_declared(t: &Transition<'_>) -> Result<(), String> {
    let granted = t.new_grant().map(|grant| &grant.effect);
    for (id, (before, after)) in t.effects() {
        let Some(after) = after else { continue };
        if Some(id) != granted {
            check(after.fence == before.fence && after.generation == before.generation, || {
                format!("{id}: a fence or generation rose without a grant")
            })?;
            continue;
        }
        check(before.is_free(), || format!("{id} was granted again while it was {:?}", before.state))?;
        check(after.fence.get() == before.fence.get() + 1, || {
            format!("{id}: the fence went from {:?} to {:?}", before.fence, after.fence)
        })?;
        let rejected = matches!(before.state, EffectState::Rejected { .. });
        check(after.generation == before.generation + u32::from(rejected), || {
            format!("{id}: the generation went from {} to {} after {:?}", before.generation, after.generation, before.state)
        })?;
    }
    t.created().into_iter().filter_map(|id| t.after.effect(id)).try_for_each(|effect| {
        check(effect.fence == Fence::FIRST && effect.generation == 0, || format!("{} begins at {:?}", effect.spec.effect, effect.fence))
    })
}

pub(crate) fn never_free_without_proof(t: &Transition<'_>) -> Result<(), String> {
    for (id, (before, after)) in t.effects() {
        let Some(after) = after.filter(|after| after.is_free() && after.fence == before.fence && !before.is_free()) else { continue };
        check(before.is_in_flight() || before.is_in_doubt(), || format!("{id}: freed although it was {:?}", before.state))?;
        let grant = t.world.grant(id, before.fence);
        let proven = match &t.command {
            Command::Settle(word) => {
                let says_so = matches!(word.outcome, SettleOutcome::NotSent(_) | SettleOutcome::Rejected { .. });
                says_so && word.effect == *id && word.fence == before.fence && word.boot == before.holder.0
            }
            Command::Abandon(abandon) => before.holder == (abandon.boot.clone(), abandon.decision.clone()),
            Command::Evidence(evidence) => {
                evidence.finding == Finding::NotExecuted
                    && before.is_in_doubt()
                    && grant.is_some_and(|grant| is_beyond_horizon(grant, evidence.asked_at))
            }
            Command::DecideGate(vote) => {
                vote.verdict == GateVerdict::NotExecuted && before.is_in_doubt() && before.resolution.as_ref() == Some(&vote.gate)
            }
            Command::Decide(_) | Command::Renew(_) | Command::Observe(_) | Command::Spans(_) | Command::EnterRun(_) | Command::Expire => {
                false
            }
        };
        check(proven, || {
            format!(
                "{id}: free without proof, {:?} became {:?}; its lease ends at {:?}",
                before.state,
                after.state,
                grant.map(|grant| grant.lease_end)
            )
        })?;
    }
    Ok(())
}

fn is_beyond_horizon(grant: &Granted, asked_at: Timestamp) -> bool {
    let horizon = grant.ask.probe.as_ref().and_then(|probe| probe.settle_horizon);
    horizon.is_some_and(|horizon| asked_at >= grant.lease_end.after(horizon))
}

pub(crate) fn nothing_is_lost(t: &Transition<'_>) -> Result<(), String> {
    for (id, (before, after)) in t.effects() {
        let may_go = matches!(t.command, Command::Expire) && (before.is_free() || matches!(before.state, EffectState::Tombstone { .. }));
        check(after.is_some() || may_go, || format!("{id} vanished while it was {:?}", before.state))?;
    }
    Ok(())
}

pub(crate) fn doubt_is_visible(t: &Transition<'_>) -> Result<(), String> {
    let is_expire = matches!(t.command, Command::Expire);
    for effect in t.after.effects() {
        let id = &effect.spec.effect;
        if effect.is_in_flight() {
            let end = t.world.grant(id, effect.fence).map(|grant| grant.lease_end);
            check(!is_expire || end.is_some_and(|end| t.now < end), || {
                format!("{id} is still in flight after its lease ended at {end:?}")
            })?;
        }
        let EffectState::InDoubt { since, .. } = effect.state else { continue };
        let is_asked = effect.resolution.as_ref().and_then(|gate| t.after.gate(gate)).is_some_and(|gate| gate.phase == GatePhase::Pending);
        let probing = effect.spec.probe.as_ref().filter(|probe| !is_expire || t.now < since.after(probe.give_up_after));
        check(is_asked || probing.is_some(), || format!("{id} is in doubt, and neither a probe nor a person is asked"))?;
    }
    Ok(())
}

pub(crate) fn terminal_outcomes_stand(t: &Transition<'_>) -> Result<(), String> {
    for (id, (before, after)) in t.effects() {
        let Some(after) = after else { continue };
        let stands = after.state == before.state;
        let drops = |at: Timestamp| {
            matches!(after.state, EffectState::Tombstone { .. })
                && matches!(t.command, Command::Expire)
                && t.now >= at.after(before.spec.retention)
        };
        let granted_again = after.fence > before.fence;
        let executed = matches!(after.state, EffectState::Completed { .. });
        let proven = matches!(after.state, EffectState::Completed { by: SettledBy::Proof, .. });
        let allowed = match &before.state {
            EffectState::Dispatched | EffectState::InDoubt { .. } => true,
            EffectState::Completed { at, by: SettledBy::Proof, .. } => stands || drops(*at),
            EffectState::Completed { at, .. } => stands || proven || drops(*at),
            EffectState::Rejected { .. } | EffectState::NotSent { by: SettledBy::Proof } => {
                let is_late_proof = matches!(after.state, EffectState::Completed { answer: None, by: SettledBy::Proof, .. });
                stands || granted_again || is_late_proof && !before.unproven.is_empty()
            }
            EffectState::NotSent { .. } => {
                stands || granted_again || executed || matches!(after.state, EffectState::NotSent { by: SettledBy::Proof })
            }
            EffectState::Tombstone { .. } => stands,
        };
        check(allowed, || format!("{id}: a terminal outcome was overwritten, {:?} became {:?}", before.state, after.state))?;
    }
    Ok(())
}

pub(crate) fn proof_of_execution_is_heard(t: &Transition<'_>) -> Result<(), String> {
    let (id, fence, answer) = match &t.command {
        Command::Settle(word) => match &word.outcome {
            SettleOutcome::Completed(answer) => (&word.effect, word.fence, Some((answer, &word.boot))),
            _ => return Ok(()),
        },
        Command::Evidence(found) if found.finding == Finding::Executed => (&found.effect, found.fence, None),
        _ => return Ok(()),
    };
    let (Some(before), Some(after), Some(grant)) = (t.before.effect(id), t.after.effect(id), t.world.grant(id, fence)) else {
        return Ok(());
    };
    if answer.is_some_and(|(_, boot)| *boot != grant.ask.boot) {
        // Who held an older grant is not kept; a stranger's word about one is an alarm for people, and nothing else.
        return check(after.state == before.state, || format!("{id}: a sidecar that never held the grant was believed"));
    }
    let settled_for_good = match &before.state {
        EffectState::Completed { by, .. } => *by == SettledBy::Proof || answer.is_none(),
        EffectState::NotSent { by } => *by == SettledBy::Proof,
        EffectState::Rejected { .. } | EffectState::Tombstone { .. } => true,
        EffectState::Dispatched | EffectState::InDoubt { .. } => false,
    };
    let alarms = t
        .world
        .journal
        .iter()
        .filter(|event| matches!(&event.fact, Fact::DuplicateObserved { effect, fence: proven, .. } if effect == id && *proven == fence))
        .count();
    if before.fence > fence {
        let is_known = before.proven_late.contains(&fence);
        let is_closed = matches!(after.state, EffectState::Completed { answer: None, by: SettledBy::Proof, .. });
        let may_close = before.is_free() && before.unproven.contains_key(&fence);
        let is_sent_later = !matches!(before.state, EffectState::NotSent { by: SettledBy::Proof }) || before.fence.get() != fence.get() + 1;
        return check(
            after.proven_late.contains(&fence)
                && (is_known || alarms == 1 || may_close && !is_sent_later)
                && if may_close { is_closed } else { after.state == before.state },
            || {
                format!(
                    "{id} {fence:?}: proven executed after a later grant; {alarms} alarms on record; {:?} became {:?}",
                    before.state, after.state
                )
            },
        );
    }
    // Another batch may have taken some of its keys meanwhile.
    let is_superseded = before.is_free() && !settled_for_good && t.world.has_later_dispatch(id, fence);
    check(alarms == 1 || !is_superseded, || {
        format!("{id} {fence:?}: proven executed after a dispatch in another batch; {alarms} alarms on record")
    })?;
    // A probe is asked about a doubt; what it says of an effect in flight is the exchange's to say.
    if settled_for_good || (answer.is_none() && before.is_in_flight()) {
        return Ok(());
    }
    let (said, by_whom) = answer.map_or((None, SettledBy::Probe), |(answer, _)| (Some(answer), SettledBy::Proof));
    let heard = matches!(&after.state, EffectState::Completed { answer, by, .. } if answer.as_ref() == said && *by == by_whom);
    check(heard, || format!("{id}: proof of execution did not stand, {:?} became {:?}", before.state, after.state))
}

pub(crate) fn replay_equals_the_first_answer(t: &Transition<'_>) -> Result<(), String> {
    let (Reply::Replay(replay), Command::Decide(ask)) = (&t.outcome.reply, &t.command) else { return Ok(()) };
    let Some(first) = t.world.grant(&replay.effect, replay.fence) else { return Err("replayed what was never granted".to_owned()) };
    check(first.first_answer.as_ref() == Some(&replay.answer), || {
        format!("the replay differs from the first answer {:?}", first.first_answer)
    })?;
    check(first.ask.span == replay.span, || "the replay names another span than the first call's".to_owned())?;
    check(first.ask.principal == ask.principal, || "an answer was shown to another principal".to_owned())?;
    let (mut of_first, mut of_repeat) = (first.ask.keys.clone(), ask.keys.clone());
    of_first.sort();
    of_repeat.sort();
    let by_meaning = first.ask.meaning == ask.meaning && first.ask.agent == ask.agent;
    check(by_meaning || of_first == of_repeat, || "a batch was answered with another batch's answer".to_owned())
}

pub(crate) fn repeats_are_no_ops(t: &Transition<'_>) -> Result<(), String> {
    if let Command::Abandon(abandon) = &t.command
        && !t.after.has_decided(&abandon.boot, &abandon.decision)
    {
        // The ledger's memory of this decision ended with this very command.
        return Ok(());
    }
    let again = apply(t.after, &t.command, t.now, Entropy::new([0xEE; 16]));
    check(again.events.is_empty(), || format!("the repeat appended {:?}", again.events))?;
    if let Some(gate) = t.asked_gate() {
        // The first opens the gate and says why; the repeat waits for the same gate.
        let same = matches!(&again.reply, Reply::Refuse(refuse) if refuse.gate.as_ref() == Some(gate) && refuse.code.status() == Code::ApprovalRequired.status());
        return check(same, || format!("the repeat was sent to another gate: {:?}", again.reply));
    }
    let (first, second) = (format!("{:?}", t.outcome.reply), format!("{:?}", again.reply));
    check(first == second, || format!("the repeat was answered differently: {second}"))
}

pub(crate) fn approvals_are_used_once(t: &Transition<'_>) -> Result<(), String> {
    let mut holders: HashMap<_, Vec<&Effect>> = HashMap::new();
    for effect in t.after.effects().filter(|effect| !effect.is_free()) {
        if let Some(gate) = &effect.spec.approval {
            holders.entry(gate).or_default().push(effect);
        }
    }
    for (id, held_by) in holders {
        let Some(gate) = t.after.gate(id) else { return Err(format!("{id} was consumed and does not exist")) };
        check(gate.phase == GatePhase::Consumed, || format!("{id} is {:?} although {:?} used it", gate.phase, held_by[0].state))?;
        // A person who wrongly said "not executed" gave it back by that word; the proof came too late to prevent a second use.
        let proven_late = |effect: &&Effect| t.world.grant(&effect.spec.effect, effect.fence).is_some_and(|grant| grant.proven_late);
        let users = held_by.iter().filter(|effect| !proven_late(effect)).count();
        check(users <= 1, || format!("{id} was used by {users} effects"))?;
    }
    if let (Some(grant), Command::Decide(ask)) = (t.new_grant(), &t.command) {
        return granted_as_approved(t, grant, ask);
    }
    for (id, (before, after)) in t.effects() {
        let Some(gate) = before.spec.approval.as_ref().and_then(|gate| t.after.gate(gate)) else { continue };
        let is_given_back = after
            .is_some_and(|after| matches!(after.state, EffectState::NotSent { .. }) && after.fence == before.fence && !before.is_free());
        let is_past = gate.spec.expires_at.is_some_and(|end| t.now >= end);
        // After a wrong word, another effect may have used it too.
        let used_elsewhere = |other: &Effect| !other.is_free() && other.spec.approval == before.spec.approval && other.spec.effect != *id;
        let due = match (t.after.effects().any(used_elsewhere), is_past) {
            (true, _) => GatePhase::Consumed,
            (false, true) => GatePhase::Expired,
            (false, false) => GatePhase::Approved,
        };
        check(!is_given_back || gate.phase == due, || format!("{id} was not sent, and its approval was not given back: {:?}", gate.phase))?;
    }
    Ok(())
}

fn granted_as_approved(t: &Transition<'_>, grant: &Grant, ask: &Decide) -> Result<(), String> {
    let Some(needed) = &ask.approval else {
        return check(grant.approval.is_none(), || "an approval was spent where none was due".to_owned());
    };
    let Some(gate) = grant.approval.as_ref().and_then(|gate| t.before.gate(gate)) else {
        return Err("granted without the approval that is due".to_owned());
    };
    let fits = gate.spec.digest == needed.digest && gate.spec.agent == ask.agent && gate.spec.tool == ask.tool;
    check(fits, || format!("{} approves another request", gate.spec.gate))?;
    check(gate.spec.expires_at.is_some_and(|end| t.now < end), || format!("{} had expired", gate.spec.gate))?;
    let people = gate.count(GateVerdict::Approve);
    check(gate.count(GateVerdict::Deny) == 0 && people >= gate.spec.required, || {
        format!("{} was approved by {people} people", gate.spec.gate)
    })?;
    check(gate.phase == GatePhase::Approved, || format!("{} was {:?} when it was used", gate.spec.gate, gate.phase))
}

pub(crate) fn batches_are_whole(t: &Transition<'_>) -> Result<(), String> {
    let Command::Decide(ask) = &t.command else { return Ok(()) };
    let holder = |state: &State, key: KeyDigest| state.by_key(&key).map(|effect| (effect.spec.effect.clone(), effect.fence));
    match t.new_grant() {
        Some(grant) => {
            let claimed = |key: &KeyDigest| holder(t.after, *key) == Some((grant.effect.clone(), grant.fence));
            check(ask.keys.iter().all(claimed), || "granted without every key".to_owned())?;
            let free = |key| t.before.by_key(key).is_none_or(Effect::is_free);
            check(ask.keys.iter().all(free), || "granted although a key was held".to_owned())
        }
        None => {
            let kept = (1..=names::KEYS).map(names::key).all(|key| holder(&t.before, key) == holder(t.after, key));
            check(kept, || "a key changed hands without a grant".to_owned())
        }
    }
}

pub(crate) fn doubt_blocks(t: &Transition<'_>) -> Result<(), String> {
    let Command::Decide(ask) = &t.command else { return Ok(()) };
    if t.before.has_decided(&ask.boot, &ask.decision) {
        return Ok(());
    }
    let doubtful = |effect: &&Effect| effect.is_in_doubt();
    let mut under_key = ask.keys.iter().filter_map(|key| t.before.by_key(key)).filter(doubtful);
    let is_foreign = t.before.run(&ask.run).is_some_and(|run| run.agent != ask.agent);
    if under_key.next().is_some() && !is_foreign {
        let told = matches!(&t.outcome.reply, Reply::Refuse(refuse) if refuse.code == Code::EffectInDoubt);
        return check(told, || "a key in doubt answered something else than 423".to_owned());
    }
    let means_the_same = |effect: &&Effect| effect.spec.meaning == ask.meaning && effect.spec.agent == ask.agent;
    let in_doubt = t.before.effects().filter(doubtful).find(means_the_same).filter(|_| ask.derived != DerivedMode::Off);
    check(in_doubt.is_none() || t.new_grant().is_none(), || "granted although a call that means the same is in doubt".to_owned())?;
    // In flight or unread: the same run, or any run once the caller is gone. What this call reported of callers counts.
    let Some(grant) = t.new_grant().filter(|_| ask.derived != DerivedMode::Off) else { return Ok(()) };
    let others = t.after.effects().filter(|effect| effect.spec.effect != grant.effect).filter(means_the_same);
    let near = |effect: &&Effect| effect.spec.run == ask.run || effect.caller_gone;
    let meets = |effect: &Effect| effect.is_in_flight() || (effect.is_unread() && effect.spec.principal == ask.principal);
    check(!others.filter(near).any(meets), || "granted although a call that means the same is in flight or unread".to_owned())
}

pub(crate) fn keys_name_one_request(t: &Transition<'_>) -> Result<(), String> {
    let Command::Decide(ask) = &t.command else { return Ok(()) };
    if t.before.has_decided(&ask.boot, &ask.decision) {
        return Ok(());
    }
    let differs = |effect: &&Effect| {
        let other_body = matches!((effect.spec.fingerprint, ask.fingerprint), (Some(first), Some(second)) if first != second);
        other_body || effect.spec.principal != ask.principal
    };
    let mut held = ask.keys.iter().filter_map(|key| t.before.by_key(key)).filter(|effect| !effect.is_free());
    let told = match &t.outcome.reply {
        Reply::Refuse(refuse) => matches!(refuse.code, Code::IdempotencyKeyReused | Code::EffectInDoubt | Code::RunForeign),
        _ => false,
    };
    check(told || held.find(differs).is_none(), || "another body or principal under a key was not refused".to_owned())
}

pub(crate) fn given_up_is_never_granted(t: &Transition<'_>) -> Result<(), String> {
    let Command::Decide(ask) = &t.command else { return Ok(()) };
    // Beyond the ledger's memory of decisions nobody asks again.
    let first_heard = t.world.given_up.get(&(ask.boot.clone(), ask.decision.clone()));
    let given_up = first_heard.is_some_and(|at| t.now.since(*at) <= DECISION_MEMORY);
    check(!given_up || t.new_grant().is_none(), || "a decision that was given up was granted".to_owned())
}

pub(crate) fn runs_have_one_owner(t: &Transition<'_>) -> Result<(), String> {
    for (id, run) in t.before.runs() {
        // A run that has been idle for longer than the ledger remembers is forgotten, and only by time.
        let is_forgotten = || matches!(t.command, Command::Expire) && t.now >= run.last_at.after(RUN_MEMORY);
        check(t.after.run(id).map_or_else(is_forgotten, |after| after.agent == run.agent), || format!("{id} changed its owner"))?;
    }
    match &t.command {
        Command::Decide(ask) if t.before.run(&ask.run).is_some_and(|run| run.agent != ask.agent) => {
            let refused =
                matches!(&t.outcome.reply, Reply::Refuse(refuse) if matches!(refuse.code, Code::RunForeign | Code::DecisionAbandoned));
            check(refused && t.outcome.events.is_empty(), || format!("a stranger used {}", ask.run))
        }
        Command::Spans(spans) => {
            let kept = t.outcome.events.iter().filter_map(|event| match &event.fact {
                Fact::SpanRecorded { span, .. } => Some(span.run_id()),
                _ => None,
            });
            let foreign = |run| t.before.run(run).is_some_and(|run| run.agent != spans.agent);
            check(!kept.clone().any(foreign), || "a stranger's span was recorded".to_owned())
        }
        _ => Ok(()),
    }
}

pub(crate) fn time_goes_on(t: &Transition<'_>) -> Result<(), String> {
    let mut last = t.before.last_ts();
    for event in &t.outcome.events {
        check(event.ts >= last, || format!("{:?} after {last:?}", event.ts))?;
        last = event.ts;
    }
    check(t.after.last_ts() == last, || format!("the state is at {:?}, its last event at {last:?}", t.after.last_ts()))
}

pub(crate) fn refold_is_the_same(t: &Transition<'_>) -> Result<(), String> {
    // Each history is judged in full at several of its points; at every one it would only take longer.
    if !t.world.journal.len().is_multiple_of(7) {
        return Ok(());
    }
    let bytes = serde_json::to_vec(&t.world.journal).map_err(|error| error.to_string())?;
    let journal: Vec<Event> = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let mut refolded = State::default();
    journal.iter().for_each(|event| refolded.fold(event));
    let (live, again) = (view(t.after), view(&refolded));
    check(live == again, || format!("folded once:\n{live:#?}\nfolded again:\n{again:#?}"))?;
    let decided = |state: &State| t.world.asks.iter().map(|ask| state.has_decided(&ask.boot, &ask.decision)).collect::<Vec<_>>();
    check(decided(t.after) == decided(&refolded), || "another memory of decisions".to_owned())?;
    for ask in t.world.asks.iter().rev().take(4) {
        let ask = Command::Decide(Box::new(Decide { decision: names::decision(9999), ..ask.clone() }));
        let answer = |state: &State| format!("{:?}", apply(state, &ask, t.now, Entropy::new([7; 16])));
        let (first, second) = (answer(t.after), answer(&refolded));
        check(first == second, || format!("{ask:?}\nis answered {first}\nand after a refold {second}"))?;
    }
    Ok(())
}

/// All that can be seen of a state, less what lives in memory only: leases as renewed, and when a probe was last asked.
fn view(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    let effects: BTreeMap<_, _> = state
        .effects()
        .map(|effect| (effect.spec.effect.clone(), Effect { lease_until: Timestamp::default(), probed_at: None, ..effect.clone() }))
        .collect();
    let gates: Vec<Gate> = state.gates().cloned().collect();
    let runs: Vec<_> = state.runs().map(|(id, run)| (id.clone(), run.clone())).collect();
    let keys: Vec<_> = (1..=names::KEYS).map(|key| state.by_key(&names::key(key)).map(|effect| effect.spec.effect.clone())).collect();
    let spans: Vec<u64> = (0..names::BOOTS).map(|boot| state.spans_through(&names::boot(boot))).collect();
    let callers: std::collections::BTreeSet<_> = HashSet::into_iter(state.boots_with_callers()).collect();
    assert_eq!(state.effects_in_doubt(), state.effects().filter(|effect| effect.is_in_doubt()).count());
    (state.last_ts(), effects, gates, runs, (keys, spans, callers))
}
