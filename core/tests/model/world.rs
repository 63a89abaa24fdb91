//! Two callers with a sidecar each, the network, the far side, a probe and a person: what each may do next.

use std::collections::BTreeSet;

use kybernis_core::ids::{
    AgentId, BodyDigest, BootId, DecisionId, Fingerprint, KeyDigest, Meaning, PersonId, PolicyDigest, Principal, RunId, SpanId, ToolName,
};
use kybernis_core::machine::{
    Abandon, Action as Errand, Command, Decide, DecideGate, DerivedMode, DoubtCause, Evidence, Fence, Finding, Gate, GateVerdict, Grant,
    KeyLevel, NotSentProof, Observe, ProbePlan, Renew, Reply, Settle, SettleOutcome, StoredAnswer,
};
use kybernis_core::reason::Code;
use kybernis_core::time::Millis;

use crate::ledger::{Ledger, TICK, at};

/// Ticks after the end of its lease within which a request that is still on the wire is executed or gone.
const HORIZON: u8 = 1;

/// What may happen how often: the bounds that make the world finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Limits {
    /// Calls that each caller makes.
    pub(crate) calls: [u8; 2],
    /// Faults in all: a message that is lost or late, a sidecar that dies, a ledger that starts anew.
    pub(crate) faults: u8,
    /// No call begins and no lease is renewed after this tick.
    pub(crate) last_call: u8,
    /// The last tick: late enough for every lease to end.
    pub(crate) end: u8,
    /// The tool declares a probe.
    pub(crate) probe: bool,
    /// A person may say "not executed" without looking.
    pub(crate) careless: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { calls: [2, 1], faults: 1, last_call: 2, end: 3, probe: false, careless: false }
    }
}

/// Everything that there is.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct World {
    pub(crate) ledger: Ledger,
    pub(crate) callers: [Caller; 2],
    pub(crate) far: FarSide,
    /// The one probe that is under way.
    probe: Option<Probe>,
    /// Words that a sidecar has spooled, or that the network delays.
    late: BTreeSet<Late>,
    clock: u8,
    limits: Limits,
    /// What the sometimes-properties look for.
    pub(crate) wrong_words: u8,
    pub(crate) refused_late: bool,
    pub(crate) late_word: bool,
    pub(crate) freed_by_probe: bool,
}

/// A caller and its sidecar.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Caller {
    calls: u8,
    /// Which life of the sidecar this is.
    life: u8,
    phase: Phase,
    /// How its last call was answered.
    pub(crate) last: Told,
}

/// What a caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    Nothing,
    Done,
    Replayed,
    InDoubt,
    Refused,
}

/// How far a sidecar is with a call.
#[derive(Clone, Debug, PartialEq, Hash)]
enum Phase {
    Idle,
    /// Decide was sent at this tick, and no answer came.
    Asking(u8),
    /// The permit is in hand, good for this tick.
    Holding(Permit, u8),
    /// The request is on its way; `until` it is executed or gone.
    Sent {
        permit: Permit,
        until: u8,
        exchange: Exchange,
    },
    /// The exchange is over; the ledger has yet to hear of it.
    Over(Permit, Word),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Exchange {
    Travelling,
    Executed,
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Permit {
    effect: kybernis_core::ids::EffectId,
    fence: Fence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Word {
    Completed,
    Rejected,
    NotSent,
    InDoubt,
}

/// What arrives some time, or never.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Late {
    Decide { caller: u8, life: u8, call: u8 },
    Abandon { caller: u8, life: u8, call: u8 },
    Settle { caller: u8, life: u8, permit: Permit, word: Word },
    BootGone { caller: u8, life: u8 },
}

#[derive(Clone, Debug, PartialEq, Hash)]
enum Probe {
    Asked { permit: Permit, at: u8 },
    Found { permit: Permit, at: u8, finding: bool },
}

/// The far side and the wire to it.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub(crate) struct FarSide {
    /// The grants under which the order was executed.
    pub(crate) executed: Vec<Fence>,
    /// Of those, what a sidecar has proven to the ledger.
    pub(crate) proven: BTreeSet<Fence>,
    /// Grants under which a request was sent.
    sent: BTreeSet<Fence>,
    pub(crate) sent_twice: bool,
    /// Requests that nobody waits for any more, and until when they are executed or gone.
    adrift: BTreeSet<(Fence, u8)>,
}

/// One thing that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// The sidecar asks, and hears the answer.
    Ask(u8),
    /// The sidecar asks, and the answer is lost.
    AskAndLoseTheReply(u8),
    /// The Decide is held up on its way.
    AskLate(u8),
    /// The sidecar asks no more, and spools that it gave up.
    GiveUp(u8),
    /// The first byte goes out.
    Send(u8),
    /// The connection cannot be made, or the permit is too old.
    CannotSend(u8),
    FarExecutes(u8),
    FarRefuses(u8),
    /// The answer is read to its end.
    Answer(u8),
    /// The connection breaks; the request goes on by itself.
    Break(u8),
    /// The connection breaks, and the request is gone.
    BreakAndLose(u8),
    Renew(u8),
    /// The outcome reaches the ledger.
    Settle(u8),
    /// The outcome reaches the ledger, and the sidecar does not hear that.
    SettleAndLoseTheReply(u8),
    /// The sidecar dies; what it had spooled comes later.
    Crash(u8, bool),
    /// The ledger takes a sidecar for dead that is only cut off.
    Suspect(u8),
    AdriftIsExecuted(Fence),
    AdriftIsGone(Fence),
    LateArrives(usize),
    Tick,
    Expire,
    Restart,
    ProbeLooks,
    ProbeIsLost,
    ProbeAnswers,
    PersonSays(bool),
}

impl World {
    pub(crate) fn new(limits: Limits) -> Self {
        let caller = Caller { calls: 0, life: 0, phase: Phase::Idle, last: Told::Nothing };
        Self {
            ledger: Ledger::default(),
            callers: [caller.clone(), caller],
            far: FarSide::default(),
            probe: None,
            late: BTreeSet::new(),
            clock: 0,
            limits,
            wrong_words: 0,
            refused_late: false,
            late_word: false,
            freed_by_probe: false,
        }
    }

    /// Nothing more can happen.
    pub(crate) fn is_at_rest(&self) -> bool {
        let mut actions = Vec::new();
        self.actions(&mut actions);
        actions.is_empty()
    }

    /// Everything that may happen next.
    pub(crate) fn actions(&self, into: &mut Vec<Action>) {
        for caller in 0..2 {
            self.actions_of(caller, into);
        }
        for (fence, _) in &self.far.adrift {
            into.extend([Action::AdriftIsExecuted(*fence), Action::AdriftIsGone(*fence)]);
        }
        // What a late Decide is granted must end before the world does.
        let arrives = |late: &Late| !matches!(late, Late::Decide { .. }) || self.clock < self.limits.end;
        into.extend(self.late.iter().enumerate().filter(|(_, late)| arrives(late)).map(|(n, _)| Action::LateArrives(n)));
        let on_the_wire = self.callers.iter().filter_map(|caller| match &caller.phase {
            Phase::Sent { until, exchange: Exchange::Travelling, .. } => Some(*until),
            _ => None,
        });
        let must_end = on_the_wire.chain(self.far.adrift.iter().map(|(_, until)| *until)).min();
        if self.clock < self.limits.end && must_end.is_none_or(|until| self.clock + 1 < until) {
            into.push(Action::Tick);
        }
        if self.ledger.is_due(self.clock) && self.probe.is_none() {
            into.push(Action::Expire);
        }
        if self.limits.faults > 0 && self.clock < self.limits.end && self.ledger.state.effects().next().is_some() {
            into.push(Action::Restart);
        }
        match &self.probe {
            Some(Probe::Asked { .. }) => into.extend([Action::ProbeLooks, Action::ProbeIsLost]),
            Some(Probe::Found { .. }) => into.push(Action::ProbeAnswers),
            None => {}
        }
        if self.open_gate().is_some() {
            // A careful person waits until nothing is on its way any more, and looks.
            if self.is_quiet() {
                into.push(Action::PersonSays(!self.far.executed.is_empty()));
            }
            if self.limits.careless && self.wrong_words == 0 {
                into.push(Action::PersonSays(false));
            }
        }
    }

    fn actions_of(&self, c: u8, into: &mut Vec<Action>) {
        let caller = &self.callers[usize::from(c)];
        match &caller.phase {
            Phase::Idle => {
                if caller.calls < self.limits.calls[usize::from(c)] && self.clock <= self.limits.last_call {
                    into.push(Action::Ask(c));
                    if self.limits.faults > 0 {
                        into.extend([Action::AskAndLoseTheReply(c), Action::AskLate(c)]);
                    }
                }
                return;
            }
            Phase::Asking(_) => {
                into.push(Action::GiveUp(c));
                if self.clock <= self.limits.last_call {
                    into.push(Action::Ask(c));
                }
            }
            Phase::Holding(_, since) => {
                into.push(Action::CannotSend(c));
                if self.clock == *since {
                    into.push(Action::Send(c));
                }
            }
            Phase::Sent { exchange, until, .. } => {
                into.push(Action::Break(c));
                match exchange {
                    Exchange::Travelling => into.extend([Action::FarExecutes(c), Action::FarRefuses(c), Action::BreakAndLose(c)]),
                    Exchange::Executed | Exchange::Refused => into.push(Action::Answer(c)),
                }
                if self.clock <= self.limits.last_call && *until < self.clock + 1 + HORIZON {
                    into.push(Action::Renew(c));
                }
            }
            Phase::Over(..) => {
                into.push(Action::Settle(c));
                if self.limits.faults > 0 {
                    into.push(Action::SettleAndLoseTheReply(c));
                }
                if self.limits.faults > 0 {
                    into.push(Action::Crash(c, true));
                }
            }
        }
        if self.limits.faults > 0 {
            into.extend([Action::Crash(c, false), Action::Suspect(c)]);
        }
    }

    /// The world after `action`.
    pub(crate) fn after(&self, action: Action) -> Option<World> {
        let mut world = self.clone();
        match action {
            Action::Ask(c) => world.ask(c),
            Action::AskAndLoseTheReply(c) => {
                world.limits.faults -= 1;
                let decide = world.decide(c, world.callers[usize::from(c)].life, world.callers[usize::from(c)].calls);
                world.tell(&decide);
                world.callers[usize::from(c)].phase = Phase::Asking(world.asked_at(c));
            }
            Action::AskLate(c) => {
                world.limits.faults -= 1;
                let asked_at = world.asked_at(c);
                let caller = &mut world.callers[usize::from(c)];
                caller.phase = Phase::Asking(asked_at);
                world.late.insert(Late::Decide { caller: c, life: caller.life, call: caller.calls });
            }
            Action::GiveUp(c) => {
                let caller = &mut world.callers[usize::from(c)];
                world.late.insert(Late::Abandon { caller: c, life: caller.life, call: caller.calls });
                caller.end(Told::Refused);
            }
            Action::Send(c) | Action::CannotSend(c) | Action::FarExecutes(c) | Action::FarRefuses(c) => world.exchange(c, action)?,
            Action::Answer(c) | Action::Break(c) | Action::BreakAndLose(c) => world.end_exchange(c, action)?,
            Action::Renew(c) => world.renew(c)?,
            Action::Settle(c) | Action::SettleAndLoseTheReply(c) => {
                let Phase::Over(permit, word) = world.callers[usize::from(c)].phase.clone() else { return None };
                world.settle(c, world.callers[usize::from(c)].life, &permit, word);
                if matches!(action, Action::Settle(_)) {
                    let told = match word {
                        Word::Completed => Told::Done,
                        Word::InDoubt => Told::InDoubt,
                        Word::Rejected | Word::NotSent => Told::Refused,
                    };
                    world.callers[usize::from(c)].end(told);
                } else {
                    world.limits.faults -= 1;
                }
            }
            Action::Crash(c, spooled) => world.crash(c, spooled),
            Action::Suspect(c) => {
                world.limits.faults -= 1;
                let life = world.callers[usize::from(c)].life;
                world.late.insert(Late::BootGone { caller: c, life });
            }
            Action::AdriftIsExecuted(fence) | Action::AdriftIsGone(fence) => {
                world.far.adrift.retain(|(adrift, _)| *adrift != fence);
                if matches!(action, Action::AdriftIsExecuted(_)) {
                    world.far.executed.push(fence);
                }
            }
            Action::LateArrives(n) => {
                let late = world.late.iter().nth(n)?.clone();
                world.late.remove(&late);
                world.arrive(late);
            }
            Action::Tick => world.clock += 1,
            Action::Expire => {
                let actions = world.tell(&Command::Expire).1;
                for action in actions {
                    if let Errand::Probe { effect, fence, .. } = action {
                        world.probe = Some(Probe::Asked { permit: Permit { effect, fence }, at: world.clock });
                    }
                }
            }
            Action::Restart => {
                world.limits.faults -= 1;
                world.ledger.restart(world.clock);
            }
            Action::ProbeLooks => {
                let Some(Probe::Asked { permit, at }) = world.probe.take() else { return None };
                world.probe = Some(Probe::Found { permit, at, finding: !world.far.executed.is_empty() });
            }
            Action::ProbeIsLost => world.probe = None,
            Action::ProbeAnswers => world.evidence()?,
            Action::PersonSays(executed) => world.person_says(executed)?,
        }
        Some(world)
    }

    fn tell(&mut self, command: &Command) -> (Reply, Vec<Errand>) {
        let seed = match command {
            // Every decision has a name of its own, so what it makes has one too.
            Command::Decide(decide) => decide.decision.as_str().bytes().fold(7, |seed: u8, byte| seed.wrapping_mul(31).wrapping_add(byte)),
            _ => 0,
        };
        self.ledger.ask(command, self.clock, seed)
    }

    fn ask(&mut self, c: u8) {
        let (life, call) = (self.callers[usize::from(c)].life, self.callers[usize::from(c)].calls);
        let decide = self.decide(c, life, call);
        let asked_at = self.asked_at(c);
        let (reply, _) = self.tell(&decide);
        let caller = &mut self.callers[usize::from(c)];
        match reply {
            Reply::Grant(grant) => caller.phase = Phase::Holding(permit(&grant), asked_at),
            Reply::Replay(_) => caller.end(Told::Replayed),
            Reply::Refuse(refuse) if refuse.code == Code::EffectInDoubt => caller.end(Told::InDoubt),
            _ => caller.end(Told::Refused),
        }
    }

    /// Since when the present question is asked: a permit's time counts from before the first of its repeats.
    fn asked_at(&self, c: u8) -> u8 {
        match self.callers[usize::from(c)].phase {
            Phase::Asking(since) => since,
            Phase::Idle | Phase::Holding(..) | Phase::Sent { .. } | Phase::Over(..) => self.clock,
        }
    }

    fn exchange(&mut self, c: u8, action: Action) -> Option<()> {
        let caller = &mut self.callers[usize::from(c)];
        caller.phase = match (caller.phase.clone(), action) {
            (Phase::Holding(permit, _), Action::CannotSend(_)) => Phase::Over(permit, Word::NotSent),
            (Phase::Holding(permit, since), Action::Send(_)) => {
                self.far.sent_twice |= !self.far.sent.insert(permit.fence);
                Phase::Sent { permit, until: since + 1 + HORIZON, exchange: Exchange::Travelling }
            }
            (Phase::Sent { permit, until, .. }, Action::FarExecutes(_)) => {
                self.far.executed.push(permit.fence);
                Phase::Sent { permit, until, exchange: Exchange::Executed }
            }
            (Phase::Sent { permit, until, .. }, Action::FarRefuses(_)) => Phase::Sent { permit, until, exchange: Exchange::Refused },
            _ => return None,
        };
        Some(())
    }

    fn end_exchange(&mut self, c: u8, action: Action) -> Option<()> {
        let caller = &mut self.callers[usize::from(c)];
        let Phase::Sent { permit, until, exchange } = caller.phase.clone() else { return None };
        if matches!((action, exchange), (Action::Break(_), Exchange::Travelling)) {
            self.far.adrift.insert((permit.fence, until));
        }
        let word = match (action, exchange) {
            (Action::Answer(_), Exchange::Executed) => Word::Completed,
            (Action::Answer(_), Exchange::Refused) => Word::Rejected,
            _ => Word::InDoubt,
        };
        caller.phase = Phase::Over(permit, word);
        Some(())
    }

    fn renew(&mut self, c: u8) -> Option<()> {
        let Phase::Sent { permit, exchange, .. } = self.callers[usize::from(c)].phase.clone() else { return None };
        let boot = boot(c, self.callers[usize::from(c)].life);
        let leases = vec![(permit.effect.clone(), permit.fence)];
        let (reply, _) = self.tell(&Command::Renew(Renew { boot, leases, lease: TICK, observed: Vec::new() }));
        if matches!(reply, Reply::Renewed { lost } if lost.is_empty()) {
            self.callers[usize::from(c)].phase = Phase::Sent { permit, until: self.clock + 1 + HORIZON, exchange };
            return Some(());
        }
        None
    }

    fn settle(&mut self, c: u8, life: u8, permit: &Permit, word: Word) {
        let was_in_doubt =
            self.ledger.state.effect(&permit.effect).is_some_and(|effect| effect.fence == permit.fence && effect.is_in_doubt());
        let outcome = match word {
            Word::Completed => SettleOutcome::Completed(answer()),
            Word::Rejected => SettleOutcome::Rejected { status: 400, not_executed: false },
            Word::NotSent => SettleOutcome::NotSent(NotSentProof::ConnectFailed),
            Word::InDoubt => SettleOutcome::InDoubt { cause: DoubtCause::Eof, status: None },
        };
        if word == Word::Completed {
            self.far.proven.insert(permit.fence);
        }
        self.late_word |= was_in_doubt && word != Word::InDoubt;
        let settle = Settle {
            boot: boot(c, life),
            effect: permit.effect.clone(),
            fence: permit.fence,
            outcome,
            fingerprint: None,
            latency: Millis::new(5),
            bytes_out: 1,
            bytes_in: 1,
        };
        self.tell(&Command::Settle(Box::new(settle)));
    }

    fn crash(&mut self, c: u8, spooled: bool) {
        self.limits.faults -= 1;
        let caller = &mut self.callers[usize::from(c)];
        let life = caller.life;
        match caller.phase.clone() {
            Phase::Sent { permit, until, exchange: Exchange::Travelling } => {
                self.far.adrift.insert((permit.fence, until));
            }
            Phase::Over(permit, word) if spooled => {
                self.late.insert(Late::Settle { caller: c, life, permit, word });
            }
            Phase::Idle | Phase::Asking(_) | Phase::Holding(..) | Phase::Sent { .. } | Phase::Over(..) => {}
        }
        caller.life += 1;
        caller.end(Told::Nothing);
        self.late.insert(Late::BootGone { caller: c, life });
    }

    fn arrive(&mut self, late: Late) {
        match late {
            Late::Decide { caller, life, call } => {
                let decide = self.decide(caller, life, call);
                let (reply, _) = self.tell(&decide);
                self.refused_late |= matches!(reply, Reply::Refuse(refuse) if refuse.code == Code::DecisionAbandoned);
            }
            Late::Abandon { caller, life, call } => {
                self.tell(&Command::Abandon(Abandon { boot: boot(caller, life), decision: decision(caller, call) }));
            }
            Late::Settle { caller, life, permit, word } => self.settle(caller, life, &permit, word),
            Late::BootGone { caller, life } => {
                self.tell(&Command::Observe(Observe::BootGone { boot: boot(caller, life) }));
            }
        }
    }

    fn evidence(&mut self) -> Option<()> {
        let Some(Probe::Found { permit, at: asked, finding }) = self.probe.take() else { return None };
        let finding = if finding { Finding::Executed } else { Finding::NotExecuted };
        let (effect, fence) = (permit.effect.clone(), permit.fence);
        self.tell(&Command::Evidence(Evidence { boot: boot(0, 0), effect, fence, finding, asked_at: at(asked) }));
        let is_free = self.ledger.state.effect(&permit.effect).is_some_and(|effect| effect.fence == fence && effect.is_free());
        self.freed_by_probe |= is_free && finding == Finding::NotExecuted;
        Some(())
    }

    /// No request is on its way.
    fn is_quiet(&self) -> bool {
        self.far.adrift.is_empty() && self.callers.iter().all(|caller| !matches!(caller.phase, Phase::Sent { .. }))
    }

    fn open_gate(&self) -> Option<&Gate> {
        self.ledger.state.gates().find(|gate| gate.phase.is_open())
    }

    fn person_says(&mut self, executed: bool) -> Option<()> {
        let gate = self.open_gate()?.spec.gate.clone();
        let is_wrong = !executed && !(self.is_quiet() && self.far.executed.is_empty());
        self.wrong_words += u8::from(is_wrong);
        let verdict = if executed { GateVerdict::Executed } else { GateVerdict::NotExecuted };
        let person = PersonId::new("ada").unwrap();
        self.tell(&Command::DecideGate(Box::new(DecideGate { gate, digest: None, person, verdict, reason: String::new() })));
        Some(())
    }

    fn decide(&self, c: u8, life: u8, call: u8) -> Command {
        let probe = ProbePlan {
            sealed: String::new(),
            initial_delay: Millis::new(0),
            interval: TICK,
            settle_horizon: Some(Millis::new(TICK.get() * u64::from(HORIZON))),
            give_up_after: Millis::new(TICK.get() * 3),
        };
        Command::Decide(Box::new(Decide {
            boot: boot(c, life),
            decision: decision(c, call),
            agent: AgentId::new("trader").unwrap(),
            run: RunId::new(&format!("run-{c}")).unwrap(),
            explicit_run: false,
            span: SpanId::new(&format!("span-{c}-{call}")).unwrap(),
            parent_span: None,
            tool: ToolName::new("broker-orders").unwrap(),
            action: "POST broker.example.com/v1/orders".to_owned(),
            level: KeyLevel::Tool,
            keys: vec![KeyDigest::from_bytes([1; 32])],
            key_hint: String::new(),
            meaning: Meaning::from_bytes([1; 32]),
            fingerprint: Some(Fingerprint::from_bytes([1; 32])),
            principal: Principal::from_bytes([1; 32]),
            derived: DerivedMode::Default,
            derived_window: Millis::from_secs(600),
            retention: Millis::from_secs(72 * 3600),
            probe: self.limits.probe.then_some(probe),
            policy: PolicyDigest::from_bytes([9; 32]),
            policy_id: String::new(),
            approval: None,
            attempt: 1,
            observed: Vec::new(),
            lease: TICK,
            patience_over: true,
        }))
    }
}

impl Caller {
    /// The call is over; the caller may make another.
    fn end(&mut self, told: Told) {
        self.calls += 1;
        self.phase = Phase::Idle;
        self.last = told;
    }
}

fn permit(grant: &Grant) -> Permit {
    Permit { effect: grant.effect.clone(), fence: grant.fence }
}

fn boot(caller: u8, life: u8) -> BootId {
    BootId::new(&format!("boot-{caller}-{life}")).unwrap()
}

fn decision(caller: u8, call: u8) -> DecisionId {
    DecisionId::new(&format!("decision-{caller}-{call}")).unwrap()
}

fn answer() -> StoredAnswer {
    let digest = BodyDigest::from_bytes([7; 32]);
    StoredAnswer { status: 201, headers: Vec::new(), trailers: Vec::new(), digest, len: 20, stored: true }
}
