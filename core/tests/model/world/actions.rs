//! What may happen next in a world.

use kybernis_core::machine::Fence;

use super::{Exchange, HORIZON, Late, Phase, Probe, World};

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
}
