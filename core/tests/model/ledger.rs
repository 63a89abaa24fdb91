//! The real machine with its journal, and a view of it by which two worlds are told apart.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kybernis_core::ids::{BootId, DecisionId};
use kybernis_core::machine::{Action, Command, EffectState, Entropy, Event, Fact, Outcome, Reply, State, apply};
use kybernis_core::time::{Millis, Timestamp};

/// Time goes in steps of one lease.
pub(crate) const TICK: Millis = Millis::from_secs(30);

/// A ledger with its journal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) state: Arc<State>,
    journal: Arc<Vec<Event>>,
    /// Decisions that led to a grant or were given up before.
    decided: BTreeSet<(BootId, DecisionId, bool)>,
    /// Two hashes of the view: a collision would merge two worlds.
    view: [u64; 2],
}

impl Ledger {
    /// Asks, appends, folds. `seed` names what the command makes, so that equal histories make equal names.
    pub(crate) fn ask(&mut self, command: &Command, clock: u8, seed: u8) -> (Reply, Vec<Action>) {
        let now = at(clock);
        let Outcome { events, reply, actions } = apply(&self.state, command, now, Entropy::new([seed; 16]));
        if !events.is_empty() || matches!(command, Command::Renew(_)) || !actions.is_empty() {
            let state = Arc::make_mut(&mut self.state);
            events.iter().for_each(|event| state.fold(event));
            if let Command::Renew(renew) = command {
                state.extend_leases(renew, now);
            }
            for action in &actions {
                if let Action::Probe { effect, .. } = action {
                    state.note_probe(effect, now);
                }
            }
            for event in &events {
                match &event.fact {
                    Fact::EffectGranted { boot, decision, .. } => _ = self.decided.insert((boot.clone(), decision.clone(), true)),
                    Fact::DecisionAbandoned { boot, decision } => _ = self.decided.insert((boot.clone(), decision.clone(), false)),
                    _ => {}
                }
            }
            Arc::make_mut(&mut self.journal).extend(events);
            self.look();
        }
        (reply, actions)
    }

    /// Whether time alone has something to do.
    pub(crate) fn is_due(&self, clock: u8) -> bool {
        let outcome = apply(&self.state, &Command::Expire, at(clock), Entropy::new([0; 16]));
        !outcome.events.is_empty() || !outcome.actions.is_empty()
    }

    /// Memory is gone; the journal is not.
    pub(crate) fn restart(&mut self, clock: u8) {
        let mut state = State::default();
        self.journal.iter().for_each(|event| state.fold(event));
        state.restart_leases(at(clock), TICK);
        self.state = Arc::new(state);
        self.look();
    }

    /// Everything that a later command could depend on, less the runs' hash chains, which differ between histories that
    /// are the same in all else.
    fn look(&mut self) {
        let mut view = format!("{:?}", self.decided);
        let mut effects: Vec<_> = self.state.effects().collect();
        effects.sort_by(|a, b| a.spec.effect.cmp(&b.spec.effect));
        for effect in effects {
            let (fence, generation, holder) = (effect.fence.get(), effect.generation, &effect.holder);
            let state = match &effect.state {
                EffectState::Completed { by, answer, .. } => format!("completed {by:?} {}", answer.is_some()),
                other => format!("{other:?}"),
            };
            let open = effect.is_in_flight() || effect.is_in_doubt();
            let lease = open.then_some((effect.lease_until, effect.granted_at, effect.probed_at));
            let seen = (effect.read, effect.caller_gone, &effect.proven_late, &effect.resolution);
            let _ = write!(view, "{}{state}{fence}{generation}{holder:?}{lease:?}{seen:?};", effect.spec.effect);
        }
        for gate in self.state.gates() {
            let _ = write!(view, "{}{:?}{};", gate.spec.gate, gate.phase, gate.votes.len());
        }
        self.view = [1_u64, 2].map(|salt| {
            let mut hasher = DefaultHasher::new();
            (salt, &view).hash(&mut hasher);
            hasher.finish()
        });
    }
}

impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        self.view == other.view
    }
}

impl Hash for Ledger {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.view.hash(state);
    }
}

/// The instant of a tick.
pub(crate) fn at(clock: u8) -> Timestamp {
    Timestamp::from_epoch_ms(u64::from(clock) * TICK.get())
}
