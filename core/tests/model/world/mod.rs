//! Two callers with a sidecar each, the network, the far side, a probe and a person: what each may do next.

mod actions;
mod wire;

use std::collections::BTreeSet;

use kybernis_core::ids::PersonId;
use kybernis_core::machine::{
    Abandon, Action as Errand, Command, DecideGate, DoubtCause, Evidence, Fence, Finding, Gate, GateVerdict, NotSentProof, Observe, Renew,
    Reply, Settle, SettleOutcome,
};
use kybernis_core::reason::Code;
use kybernis_core::time::Millis;

use crate::ledger::{Ledger, TICK, at};
pub(crate) use actions::Action;
use wire::{answer, boot, decision, permit};

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
        let is_wrong = !(executed || self.is_quiet() && self.far.executed.is_empty());
        self.wrong_words += u8::from(is_wrong);
        let verdict = if executed { GateVerdict::Executed } else { GateVerdict::NotExecuted };
        let person = PersonId::new("ada").unwrap();
        self.tell(&Command::DecideGate(Box::new(DecideGate { gate, digest: None, person, verdict, reason: String::new(), voucher: None })));
        Some(())
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
