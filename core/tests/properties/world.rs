//! A ledger in memory that keeps its journal, and what an onlooker knows of it without asking the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kybernis_core::ids::{BootId, DecisionId, EffectId, GateId, SpanId};
use kybernis_core::ksp::{KspEvent, SpanEnd, SpanStatus};
use kybernis_core::machine::*;
use kybernis_core::reason::Code;
use kybernis_core::time::{Millis, Timestamp};
use proptest::sample::Index;

use crate::names;
use crate::steps::{Call, FirstSpan, Step, Word};

pub(crate) const LEASE: Millis = Millis::from_secs(30);

/// One grant as its sidecar knows it.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) effect: EffectId,
    pub(crate) fence: Fence,
    pub(crate) ask: Box<Decide>,
    /// When its lease truly ends: what was granted, renewed, or given anew at a restart.
    pub(crate) lease_end: Timestamp,
    /// The first answer that its sidecar reported.
    pub(crate) first_answer: Option<StoredAnswer>,
    /// It was settled as not executed and then proven to have been.
    pub(crate) proven_late: bool,
}

/// The ledger, its journal and its onlooker.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) journal: Vec<Event>,
    pub(crate) asks: Vec<Decide>,
    pub(crate) grants: Vec<Granted>,
    /// Decisions that their sidecar has abandoned, and when the ledger first heard of them.
    pub(crate) given_up: BTreeMap<(BootId, DecisionId), Timestamp>,
    first_heard: BTreeMap<(BootId, DecisionId), Timestamp>,
    now_ms: u64,
    spent: u64,
}

/// One command and everything around it.
pub(crate) struct Transition<'w> {
    pub(crate) before: State,
    pub(crate) command: Command,
    pub(crate) now: Timestamp,
    pub(crate) outcome: Outcome,
    pub(crate) after: &'w State,
    /// The onlooker's knowledge, this command included.
    pub(crate) world: &'w World,
    /// How many grants there were before.
    pub(crate) grants_before: usize,
}

impl World {
    /// Takes one step; `None` when it speaks of something that does not exist yet, or is no command.
    pub(crate) fn take(&mut self, step: &Step) -> Option<Transition<'_>> {
        let command = self.command(step)?;
        let (before, now, grants_before) = (self.state.clone(), self.now(), self.grants.len());
        self.spent += 1;
        let mut entropy = [0; 16];
        entropy[..8].copy_from_slice(&self.spent.to_be_bytes());
        let outcome = apply(&self.state, &command, now, Entropy::new(entropy));
        outcome.events.iter().for_each(|event| self.state.fold(event));
        self.journal.extend(outcome.events.iter().cloned());
        self.look_on(&before, &command, &outcome, now);
        Some(Transition { before, command, now, outcome, after: &self.state, world: self, grants_before })
    }

    /// The grant of that effect and fence.
    pub(crate) fn grant(&self, effect: &EffectId, fence: Fence) -> Option<&Granted> {
        self.grants.iter().find(|grant| grant.effect == *effect && grant.fence == fence)
    }

    /// Whether a key of this grant was granted again after it, under whatever record.
    pub(crate) fn has_later_dispatch(&self, effect: &EffectId, fence: Fence) -> bool {
        let Some(at) = self.grants.iter().position(|grant| grant.effect == *effect && grant.fence == fence) else { return false };
        let keys = &self.grants[at].ask.keys;
        self.grants[at + 1..].iter().any(|later| later.effect == *effect || later.ask.keys.iter().any(|key| keys.contains(key)))
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_epoch_ms(self.now_ms).max(self.state.last_ts())
    }

    fn command(&mut self, step: &Step) -> Option<Command> {
        match step {
            Step::Ask(call) => {
                let ask = self.ask(call);
                self.asks.push(ask.clone());
                Some(Command::Decide(Box::new(ask)))
            }
            Step::AskAgain(index) => Some(Command::Decide(Box::new(pick(index, &self.asks)?.clone()))),
            Step::Settle { grant, word, by_stranger } => {
                let grant = pick(grant, &self.grants)?;
                let boot = if *by_stranger { names::boot(2) } else { grant.ask.boot.clone() };
                Some(Command::Settle(Box::new(settle(grant, boot, *word))))
            }
            Step::Renew { grants, boot } => {
                let leases = grants.iter().filter_map(|index| pick(index, &self.grants));
                let leases = leases.map(|grant| (grant.effect.clone(), grant.fence)).collect();
                Some(Command::Renew(Renew { boot: names::boot(*boot), leases, lease: LEASE, observed: Vec::new() }))
            }
            Step::Abandon { ask, before_it_arrives } => {
                let made = pick(ask, &self.asks)?;
                let decision = if *before_it_arrives { names::decision(self.asks.len()) } else { made.decision.clone() };
                Some(Command::Abandon(Abandon { boot: made.boot.clone(), decision }))
            }
            Step::Observe { grant, seen } => {
                let grant = pick(grant, &self.grants)?;
                Some(Command::Observe(Observe::Seen { boot: grant.ask.boot.clone(), observed: vec![observation(grant, *seen)] }))
            }
            Step::BootGone { boot } => Some(Command::Observe(Observe::BootGone { boot: names::boot(*boot) })),
            Step::Evidence { grant, finding, ago_s } => {
                let grant = pick(grant, &self.grants)?;
                let asked_at = Timestamp::from_epoch_ms(self.now().epoch_ms().saturating_sub(ago_s * 1000));
                let (effect, fence) = (grant.effect.clone(), grant.fence);
                Some(Command::Evidence(Evidence { boot: grant.ask.boot.clone(), effect, fence, finding: *finding, asked_at }))
            }
            Step::Vote { gate, person, verdict, of_another_request } => self.vote(gate, *person, *verdict, *of_another_request),
            Step::Spans { boot, run, first, count } => Some(Command::Spans(Box::new(self.spans(*boot, *run, *first, *count)))),
            Step::Pass { ms } => {
                self.now_ms = self.now().epoch_ms() + ms;
                Some(Command::Expire)
            }
            Step::Jump { ms } => {
                self.now_ms = self.now().epoch_ms() + ms;
                None
            }
            Step::Restart => {
                self.restart();
                None
            }
        }
    }

    fn ask(&self, call: &Call) -> Decide {
        let n = self.asks.len();
        let level = match (call.keys.is_empty(), call.by_tool) {
            (true, _) => KeyLevel::Derived,
            (false, true) => KeyLevel::Tool,
            (false, false) => KeyLevel::Caller,
        };
        let observed = call.observed.iter().filter_map(|(index, seen)| Some(observation(pick(index, &self.grants)?, *seen)));
        Decide {
            boot: names::boot(call.boot),
            decision: names::decision(n),
            agent: names::agent_of(call.boot),
            run: names::run(call.run),
            explicit_run: call.run == 0,
            span: names::span(n),
            parent_span: None,
            tool: names::tool(),
            action: "POST broker.example.com/v1/orders".to_owned(),
            level,
            keys: call.keys.iter().map(|key| names::key(*key)).collect(),
            key_hint: String::new(),
            meaning: names::meaning(call.meaning),
            fingerprint: call.fingerprint.map(names::fingerprint),
            principal: names::principal(call.principal),
            derived: call.derived,
            derived_window: Millis::from_secs(600),
            retention: Millis::from_secs(72 * 3600),
            probe: call.probe.map(probe),
            policy: names::policy(),
            policy_id: "trading/large".to_owned(),
            approval: call.approval.map(|(digest, required)| approval(digest, required)),
            attempt: 1,
            adopts: None,
            audit: false,
            notes: BTreeMap::new(),
            observed: observed.collect(),
            lease: LEASE,
            patience_over: call.patience_over,
        }
    }

    fn vote(&self, gate: &Index, person: u8, verdict: GateVerdict, of_another_request: bool) -> Option<Command> {
        // Mostly gates that a person would see: the open ones.
        let open: Vec<&Gate> = self.state.gates().filter(|gate| gate.phase.is_open()).collect();
        let all: Vec<&Gate> = self.state.gates().collect();
        let gate = if open.is_empty() { *pick(gate, &all)? } else { *pick(gate, &open)? };
        let verdict = match (gate.spec.kind, verdict) {
            // A word that does not fit is refused before anything else, so it would hide what is looked for here.
            (GateKind::Resolution, GateVerdict::Approve) => GateVerdict::NotExecuted,
            (GateKind::Resolution, GateVerdict::Deny) => GateVerdict::Executed,
            (GateKind::Approval, GateVerdict::NotExecuted | GateVerdict::Executed) => GateVerdict::Approve,
            (_, fitting) => fitting,
        };
        let digest = of_another_request.then(|| names::request(77));
        let (gate, person) = (gate.spec.gate.clone(), names::person(person));
        Some(Command::DecideGate(Box::new(DecideGate { gate, digest, person, verdict, reason: "checked".to_owned(), voucher: None })))
    }

    fn spans(&self, boot: u8, run: u8, first: FirstSpan, count: u8) -> Spans {
        let through = self.state.spans_through(&names::boot(boot));
        let first_seq = match first {
            FirstSpan::Next => through + 1,
            FirstSpan::Repeated => through.saturating_sub(1),
            FirstSpan::Gap => through + 5,
            FirstSpan::EndOfNumbers => u64::MAX,
        };
        let span = |n: u8| {
            let id = SpanId::new(&format!("read-{n}")).unwrap();
            KspEvent::SpanEnd(SpanEnd::new(self.now(), names::run(run), id, SpanStatus::Ok, Millis::new(3)))
        };
        Spans { boot: names::boot(boot), agent: names::agent_of(boot), first_seq, spans: (0..count).map(span).collect() }
    }

    fn restart(&mut self) {
        self.state = State::default();
        self.journal.iter().for_each(|event| self.state.fold(event));
        let now = self.now();
        self.state.restart_leases(now, LEASE);
        for grant in &mut self.grants {
            // What the ledger now says is the lease.
            if let Some(effect) = self.state.effect(&grant.effect).filter(|effect| effect.fence == grant.fence && effect.is_in_flight()) {
                grant.lease_end = effect.lease_until;
            }
        }
    }

    fn look_on(&mut self, before: &State, command: &Command, outcome: &Outcome, now: Timestamp) {
        match command {
            Command::Decide(ask) => {
                self.first_heard.entry((ask.boot.clone(), ask.decision.clone())).or_insert(now);
                if let Reply::Grant(grant) = &outcome.reply
                    && !outcome.events.is_empty()
                {
                    let (effect, fence) = (grant.effect.clone(), grant.fence);
                    let lease_end = now.after(ask.lease);
                    self.grants.push(Granted { effect, fence, ask: ask.clone(), lease_end, first_answer: None, proven_late: false });
                }
            }
            Command::Abandon(abandon) => {
                let decision = (abandon.boot.clone(), abandon.decision.clone());
                let first_heard = *self.first_heard.entry(decision.clone()).or_insert(now);
                self.given_up.insert(decision, first_heard);
            }
            Command::Renew(renew) => {
                self.state.extend_leases(renew, now);
                for (id, fence) in &renew.leases {
                    let held = before.effect(id).is_some_and(|effect| effect.holds(&renew.boot, *fence));
                    for grant in self.grants.iter_mut().filter(|grant| held && grant.effect == *id && grant.fence == *fence) {
                        grant.lease_end = grant.lease_end.max(now.after(renew.lease));
                    }
                }
            }
            Command::Evidence(found) if found.finding == Finding::Executed => {
                self.proven_late(before, &found.effect, found.fence);
            }
            Command::Settle(settle) => {
                let mut mine = self.grants.iter_mut().filter(|grant| grant.effect == settle.effect && grant.fence == settle.fence);
                if let (Some(grant), SettleOutcome::Completed(answer)) = (mine.next(), &settle.outcome)
                    && grant.ask.boot == settle.boot
                {
                    grant.first_answer.get_or_insert_with(|| answer.clone());
                    self.proven_late(before, &settle.effect, settle.fence);
                }
            }
            _ => {}
        }
        for action in &outcome.actions {
            if let Action::Probe { effect, .. } = action {
                self.state.note_probe(effect, now);
            }
        }
    }
}

impl World {
    /// Proof of execution for a free record: its last grant is where the record ends.
    fn proven_late(&mut self, before: &State, id: &EffectId, fence: Fence) {
        let last = before.effect(id).filter(|effect| effect.is_free() && fence <= effect.fence).map(|effect| effect.fence);
        let ends = |grant: &&mut Granted| grant.effect == *id && Some(grant.fence) == last;
        self.grants.iter_mut().filter(ends).for_each(|grant| grant.proven_late = true);
    }
}

fn pick<'i, T>(index: &Index, items: &'i [T]) -> Option<&'i T> {
    (!items.is_empty()).then(|| index.get(items))
}

fn observation(grant: &Granted, seen: Seen) -> Observation {
    Observation { effect: grant.effect.clone(), fence: grant.fence, seen }
}

fn settle(grant: &Granted, boot: BootId, word: Word) -> Settle {
    let outcome = match word {
        Word::Completed(n) => SettleOutcome::Completed(StoredAnswer {
            status: 200 + u16::from(n),
            headers: vec![("content-type".to_owned(), format!("text/{n}"))],
            trailers: vec![("grpc-status".to_owned(), n.to_string())],
            digest: names::body(n),
            len: u64::from(n),
            stored: n != 3,
        }),
        Word::Rejected { status, not_executed } => SettleOutcome::Rejected { status, not_executed },
        Word::NotSent(proof) => SettleOutcome::NotSent(proof),
        Word::InDoubt(cause) => SettleOutcome::InDoubt { cause, status: None },
    };
    let fingerprint = grant.ask.fingerprint.is_none().then(|| names::fingerprint(1));
    let (effect, fence) = (grant.effect.clone(), grant.fence);
    Settle { boot, effect, fence, outcome, fingerprint, latency: Millis::new(12), bytes_out: 100, bytes_in: 20 }
}

fn probe(horizon_s: Option<u64>) -> ProbePlan {
    ProbePlan {
        sealed: "sealed".to_owned(),
        initial_delay: Millis::from_secs(2),
        interval: Millis::from_secs(10),
        settle_horizon: horizon_s.map(Millis::from_secs),
        give_up_after: Millis::from_secs(600),
    }
}

fn approval(digest: u8, required: u32) -> Approval {
    Approval {
        digest: names::request(digest),
        required,
        class: "desk-heads".to_owned(),
        expires_after: Millis::from_secs(3600),
        summary: "qty=500".to_owned(),
    }
}

/// Everything that random histories must reach for the rules to mean something.
pub(crate) const SIGHTS: [&str; 27] = [
    "granted",
    "granted again",
    "batch granted",
    "approval consumed",
    "same grant repeated",
    "replayed",
    "waits",
    "effect_in_flight",
    "effect_in_doubt",
    "idempotency_key_reused",
    "effect_expired",
    "replay_unavailable",
    "run_foreign",
    "decision_abandoned",
    "approval_required",
    "approval_mismatch",
    "approval_expired",
    "approval_denied",
    "completed by Proof",
    "completed by Probe",
    "completed by Person",
    "not sent by Proof",
    "not sent by Probe",
    "not sent by Person",
    "approval given back",
    "duplicate observed",
    "span refused",
];

impl Transition<'_> {
    /// What this transition shows, by the names of [`SIGHTS`].
    pub(crate) fn sights(&self) -> Vec<String> {
        let mut sights = Vec::new();
        match &self.outcome.reply {
            Reply::Grant(grant) if self.outcome.events.is_empty() => {
                sights.push(format!("same grant repeated{}", if grant.fence == Fence::FIRST { "" } else { " late" }))
            }
            Reply::Grant(grant) => {
                sights.push(if grant.fence == Fence::FIRST { "granted" } else { "granted again" }.to_owned());
                sights.extend(grant.approval.is_some().then(|| "approval consumed".to_owned()));
                let keys = self.after.effect(&grant.effect).map_or(0, |effect| effect.spec.keys.len());
                sights.extend((keys > 1).then(|| "batch granted".to_owned()));
            }
            Reply::Replay(_) => sights.push("replayed".to_owned()),
            Reply::Wait { .. } => sights.push("waits".to_owned()),
            Reply::Refuse(refuse) => sights.push(refuse.code.as_str().to_owned()),
            Reply::Renewed { .. } | Reply::Settled { .. } | Reply::SpansAcked { .. } | Reply::Done => {}
        }
        for event in &self.outcome.events {
            match &event.fact {
                Fact::EffectSettled { outcome, approval_returned, .. } => {
                    sights.extend(approval_returned.as_ref().map(|_| "approval given back".to_owned()));
                    match outcome {
                        Settled::Completed { by, .. } => sights.push(format!("completed by {}", kind(by))),
                        Settled::NotSent { by, .. } => sights.push(format!("not sent by {}", kind(by))),
                        Settled::Rejected { .. } | Settled::InDoubt { .. } => {}
                    }
                }
                Fact::DuplicateObserved { .. } => sights.push("duplicate observed".to_owned()),
                Fact::SpanRefused { .. } => sights.push("span refused".to_owned()),
                _ => {}
            }
        }
        sights
    }

    /// The gate that a refusal names, when it is one of the approval's codes.
    pub(crate) fn asked_gate(&self) -> Option<&GateId> {
        match &self.outcome.reply {
            Reply::Refuse(refuse) if matches!(refuse.code, Code::ApprovalRequired | Code::ApprovalMismatch | Code::ApprovalExpired) => {
                refuse.gate.as_ref()
            }
            _ => None,
        }
    }

    /// A grant that this very command made.
    pub(crate) fn new_grant(&self) -> Option<&Grant> {
        match &self.outcome.reply {
            Reply::Grant(grant) if self.world.grants.len() > self.grants_before => Some(grant),
            _ => None,
        }
    }

    /// Effects before, by id, with what became of them.
    pub(crate) fn effects(&self) -> BTreeMap<&EffectId, (&Effect, Option<&Effect>)> {
        self.before.effects().map(|effect| (&effect.spec.effect, (effect, self.after.effect(&effect.spec.effect)))).collect()
    }

    /// Effects that exist only now.
    pub(crate) fn created(&self) -> BTreeSet<&EffectId> {
        self.after.effects().map(|effect| &effect.spec.effect).filter(|id| self.before.effect(id).is_none()).collect()
    }
}

fn kind(by: &SettledBy) -> &'static str {
    match by {
        SettledBy::Proof => "Proof",
        SettledBy::Probe => "Probe",
        SettledBy::Person(_) => "Person",
    }
}

impl fmt::Display for Transition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} at {}", self.command, self.now.epoch_ms())?;
        writeln!(f, "  answered {:?}", self.outcome.reply)?;
        self.outcome.events.iter().try_for_each(|event| writeln!(f, "  {:?}", event.fact))
    }
}
