//! How a fact changes what the ledger knows. Total: whatever the journal holds can be folded, and nothing is decided again.

use std::collections::{BTreeMap, BTreeSet};

use super::command::Seen;
use super::effect::{Effect, EffectSpec, EffectState, Fence, SettledBy};
use super::event::{Event, Fact, Settled};
use super::gate::{Gate, GateKind, GatePhase, GateSpec, Vote};
use super::run::{Run, Tally, chain, count};
use super::state::{CHAIN_START, DECISION_MEMORY, Decided, State};
use super::timed::Change;
use crate::ids::{BootId, DecisionId, EffectId, Fingerprint, GateId, RunId};
use crate::time::{Millis, Timestamp};

impl State {
    /// Takes one event in.
    pub fn fold(&mut self, event: &Event) {
        self.last_ts = self.last_ts.max(event.ts);
        let ts = self.last_ts;
        self.forget_decisions(ts);
        let run = self.run_of(&event.fact);
        match &event.fact {
            Fact::RunOpened { run, agent, explicit } => {
                let fresh = Run {
                    agent: agent.clone(),
                    explicit: *explicit,
                    opened_at: ts,
                    last_at: ts,
                    tally: Tally::default(),
                    head: CHAIN_START,
                    events: 0,
                    effects_on_record: 0,
                };
                if self.runs.get(run).is_none() {
                    self.runs.insert(run.clone(), fresh);
                }
            }
            Fact::EffectGranted { spec, fence, generation, boot, decision, lease, .. } => {
                self.granted(spec, *fence, *generation, (boot.clone(), decision.clone()), ts, *lease);
            }
            Fact::EffectSettled { effect, fence, outcome, fingerprint, approval_returned, proven_late, .. } => {
                self.settled(effect, *fence, outcome, *fingerprint, ts);
                if let (Some(mut effect), Some(fence)) = (self.effects.get_mut(effect), proven_late) {
                    effect.proven_late.insert(*fence);
                }
                if let Some(gate) = approval_returned {
                    self.return_approval(gate, effect, ts);
                }
            }
            Fact::CallerSeen { effect, fence, seen } => self.caller_seen(effect, *fence, *seen),
            Fact::BootGone { boot } => self.boot_gone(boot),
            Fact::DecisionAbandoned { boot, decision } => self.decided(boot.clone(), decision.clone(), Decided::Abandoned, ts),
            Fact::GateOpened { gate } => self.gate_opened(gate, ts),
            Fact::GateVoted { gate, person, verdict, reason, voucher } => {
                if let Some(mut gate) = self.gate_mut(gate) {
                    gate.heard.extend(voucher.as_ref().map(|voucher| voucher.signature.clone()));
                    gate.votes.insert(person.clone(), Vote { verdict: *verdict, reason: reason.clone(), at: ts });
                    if gate.phase.is_open() {
                        let phase = gate.phase_by_votes();
                        gate.enter(phase, ts);
                    }
                }
            }
            Fact::GateExpired { gate } => self.gate_ended(gate, GatePhase::Expired, ts),
            Fact::GateSuperseded { gate } => self.gate_ended(gate, GatePhase::Superseded, ts),
            Fact::AnswerDropped { effect } => {
                if let Some(mut effect) = self.effects.get_mut(effect) {
                    effect.state = EffectState::Tombstone { since: ts };
                }
            }
            Fact::EffectForgotten { effect } => self.forget(effect),
            Fact::RunForgotten { run } => _ = self.runs.remove(run),
            Fact::SpanRecorded { boot, seq, .. } | Fact::SpanRefused { boot, seq } => {
                self.spans_through.insert(boot.clone(), *seq);
            }
            Fact::DuplicateObserved { effect, fence, .. } => {
                if let Some(mut effect) = self.effects.get_mut(effect) {
                    effect.proven_late.insert(*fence);
                }
            }
        }
        if let Some(run) = run {
            self.link(&run, event);
        }
    }

    /// The run whose chain an event belongs to, looked up before the event changes anything.
    pub fn run_of(&self, fact: &Fact) -> Option<RunId> {
        let of_effect = |id: &EffectId| self.effects.get(id).map(|effect| effect.spec.run.clone());
        match fact {
            Fact::RunOpened { run, .. } | Fact::DuplicateObserved { run, .. } => Some(run.clone()),
            Fact::EffectGranted { spec, .. } => Some(spec.run.clone()),
            Fact::EffectSettled { effect, .. }
            | Fact::CallerSeen { effect, .. }
            | Fact::AnswerDropped { effect }
            | Fact::EffectForgotten { effect } => of_effect(effect),
            Fact::GateOpened { gate } => Some(gate.run.clone()),
            Fact::GateVoted { gate, .. } | Fact::GateExpired { gate } | Fact::GateSuperseded { gate } => {
                self.gates.get(gate).map(|gate| gate.spec.run.clone())
            }
            Fact::SpanRecorded { span, .. } => Some(span.run_id().clone()),
            Fact::BootGone { .. } | Fact::DecisionAbandoned { .. } | Fact::RunForgotten { .. } | Fact::SpanRefused { .. } => None,
        }
    }

    fn link(&mut self, run: &RunId, event: &Event) {
        let Some(mut run) = self.runs.get_mut(run) else { return };
        // Events are made of strings, integers and maps in a fixed order, so this cannot fail and is the same everywhere.
        let bytes = serde_json::to_vec(event).unwrap_or_default();
        run.head = chain(run.head, &bytes);
        run.events += 1;
        run.last_at = event.ts;
        match &event.fact {
            Fact::EffectGranted { .. } => {
                run.tally.effects += 1;
                run.tally.calls += 1;
            }
            Fact::SpanRecorded { span, .. } => count(&mut run.tally, span),
            Fact::RunOpened { .. }
            | Fact::EffectSettled { .. }
            | Fact::CallerSeen { .. }
            | Fact::BootGone { .. }
            | Fact::DecisionAbandoned { .. }
            | Fact::GateOpened { .. }
            | Fact::GateVoted { .. }
            | Fact::GateExpired { .. }
            | Fact::GateSuperseded { .. }
            | Fact::DuplicateObserved { .. }
            | Fact::AnswerDropped { .. }
            | Fact::EffectForgotten { .. }
            | Fact::RunForgotten { .. }
            | Fact::SpanRefused { .. } => {}
        }
    }

    fn granted(&mut self, spec: &EffectSpec, fence: Fence, generation: u32, holder: (BootId, DecisionId), ts: Timestamp, lease: Millis) {
        let id = spec.effect.clone();
        for key in &spec.keys {
            self.by_key.insert(*key, id.clone());
        }
        if let Some(before) = self.effects.get(&id).map(|effect| effect.spec.meaning).filter(|meaning| *meaning != spec.meaning) {
            self.unindex(&before, &id);
        }
        let alike = self.by_meaning.entry(spec.meaning).or_default();
        if !alike.contains(&id) {
            alike.push(id.clone());
        }
        self.use_approval(spec.approval.as_ref(), &id);
        self.decided(holder.0.clone(), holder.1.clone(), Decided::Granted(id.clone()), ts);
        let (mut unproven, mut proven_late) = (BTreeMap::new(), BTreeSet::new());
        if let Some(before) = self.take(&id) {
            (unproven, proven_late) = (before.unproven, before.proven_late);
            if matches!(&before.state, EffectState::NotSent { by } if *by != SettledBy::Proof) {
                unproven.insert(before.fence, before.holder.0);
            }
        }
        if let Some(mut run) = self.runs.get_mut(&spec.run) {
            run.effects_on_record += 1;
        }
        let effect = Effect {
            spec: spec.clone(),
            state: EffectState::Dispatched,
            fence,
            generation,
            holder,
            granted_at: ts,
            lease_until: ts.after(lease),
            read: false,
            caller_gone: false,
            resolution: None,
            unproven,
            proven_late,
            settled_at: ts,
            probed_at: None,
        };
        self.effects.insert(id, effect);
    }

    fn settled(&mut self, id: &EffectId, fence: Fence, outcome: &Settled, fingerprint: Option<Fingerprint>, ts: Timestamp) {
        let Some(mut effect) = self.effects.get_mut(id).filter(|effect| effect.fence == fence) else { return };
        let (was_in_doubt, was_free) = (effect.is_in_doubt(), effect.is_free());
        effect.spec.fingerprint = effect.spec.fingerprint.or(fingerprint);
        effect.settled_at = ts;
        effect.state = match outcome.clone() {
            Settled::Completed { answer, by } => EffectState::Completed { at: ts, answer, by },
            Settled::Rejected { status } => EffectState::Rejected { status },
            Settled::NotSent { by, .. } => EffectState::NotSent { by },
            Settled::InDoubt { cause, status } => EffectState::InDoubt { since: ts, cause, status },
        };
        let (run, is_in_doubt, gate) = (effect.spec.run.clone(), effect.is_in_doubt(), effect.resolution.clone());
        // Given back on a wrong word, and used after all: it must not serve a second time.
        let spent = effect.spec.approval.clone().filter(|_| was_free && !effect.is_free());
        drop(effect);
        self.in_doubt = (self.in_doubt + usize::from(is_in_doubt)).saturating_sub(usize::from(was_in_doubt));
        self.use_approval(spent.as_ref(), id);
        if let Some(mut run) = self.runs.get_mut(&run) {
            match (was_in_doubt, is_in_doubt) {
                (false, true) => run.tally.in_doubt += 1,
                (true, false) => run.tally.in_doubt = run.tally.in_doubt.saturating_sub(1),
                (true, true) | (false, false) => {}
            }
        }
        if let Some(mut gate) = gate.and_then(|gate| self.gate_mut(&gate)).filter(|gate| !is_in_doubt && gate.phase.is_open()) {
            gate.enter(GatePhase::Superseded, ts);
        }
    }

    fn use_approval(&mut self, gate: Option<&GateId>, by: &EffectId) {
        let ts = self.last_ts;
        if let Some(mut gate) = gate.and_then(|gate| self.gate_mut(gate)) {
            gate.enter(GatePhase::Consumed, ts);
            gate.used_by.insert(by.clone());
        }
    }

    fn return_approval(&mut self, gate: &GateId, by: &EffectId, ts: Timestamp) {
        let Some(mut gate) = self.gate_mut(gate) else { return };
        gate.used_by.remove(by);
        if gate.phase == GatePhase::Consumed && gate.used_by.is_empty() {
            let is_past = gate.spec.expires_at.is_some_and(|end| ts >= end);
            gate.enter(if is_past { GatePhase::Expired } else { GatePhase::Approved }, ts);
        }
    }

    fn caller_seen(&mut self, id: &EffectId, fence: Fence, seen: Seen) {
        if let Some(mut effect) = self.effects.get_mut(id).filter(|effect| effect.fence == fence) {
            match seen {
                Seen::Read => effect.read = true,
                Seen::CallerGone => effect.caller_gone = true,
            }
        }
    }

    /// The callers are gone. The leases run on: a sidecar that is only cut off uses them to their end.
    fn boot_gone(&mut self, boot: &BootId) {
        self.effects.change_all(|effect| effect.caller_gone |= !effect.read && effect.holder.0 == *boot);
    }

    fn gate_opened(&mut self, spec: &GateSpec, ts: Timestamp) {
        if let Some(mut effect) = spec.effect.as_ref().and_then(|id| self.effects.get_mut(id)) {
            effect.resolution = Some(spec.gate.clone());
        }
        if spec.kind == GateKind::Approval {
            let request = (spec.agent.clone(), spec.tool.clone(), spec.digest);
            self.gates_by_request.entry(request).or_default().insert(spec.class.clone(), spec.gate.clone());
        }
        let (votes, heard, used_by) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let gate = Gate { spec: spec.clone(), phase: GatePhase::Pending, opened_at: ts, ended_at: None, votes, heard, used_by };
        self.gates.insert(spec.gate.clone(), gate);
        self.touched_gates.insert(spec.gate.clone());
    }

    fn gate_ended(&mut self, gate: &GateId, phase: GatePhase, ts: Timestamp) {
        if let Some(mut gate) = self.gate_mut(gate) {
            gate.enter(phase, ts);
        }
    }

    /// One gate, to be changed; whoever follows gates will be told.
    fn gate_mut(&mut self, id: &GateId) -> Option<Change<'_, GateId, Gate>> {
        let gate = self.gates.get_mut(id)?;
        self.touched_gates.insert(id.clone());
        Some(gate)
    }

    fn decided(&mut self, boot: BootId, decision: DecisionId, led_to: Decided, ts: Timestamp) {
        self.decisions_by_age.push_back((ts, (boot.clone(), decision.clone())));
        self.decisions.insert((boot, decision), led_to);
    }

    fn forget_decisions(&mut self, ts: Timestamp) {
        while let Some((_, decision)) = self.decisions_by_age.pop_front_if(|(at, _)| ts.since(*at) > DECISION_MEMORY) {
            self.decisions.remove(&decision);
        }
    }

    /// Takes a record out of the effects and out of its run's count.
    fn take(&mut self, id: &EffectId) -> Option<Effect> {
        let effect = self.effects.remove(id)?;
        self.in_doubt = self.in_doubt.saturating_sub(usize::from(effect.is_in_doubt()));
        if let Some(mut run) = self.runs.get_mut(&effect.spec.run) {
            run.effects_on_record = run.effects_on_record.saturating_sub(1);
        }
        Some(effect)
    }

    fn forget(&mut self, id: &EffectId) {
        let Some(effect) = self.take(id) else { return };
        for key in effect.spec.keys.iter().filter(|key| self.by_key.get(key) == Some(id)).collect::<Vec<_>>() {
            self.by_key.remove(key);
        }
        self.unindex(&effect.spec.meaning, id);
    }

    fn unindex(&mut self, meaning: &crate::ids::Meaning, id: &EffectId) {
        if let Some(alike) = self.by_meaning.get_mut(meaning) {
            alike.retain(|other| other != id);
            if alike.is_empty() {
                self.by_meaning.remove(meaning);
            }
        }
    }
}
