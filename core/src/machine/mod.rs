//! The ledger's state machine: one command in, facts and errands out.
//!
//! [`apply`] looks at the state and a command and says which [`Event`]s would be true afterwards, what to answer, and which
//! [`Action`]s the driver owes the world. It changes nothing. The driver appends the events durably, then folds them with
//! [`State::fold`], then acts, then answers. Replaying the journal through `fold` alone gives the same state: events are
//! facts and are never decided again.
//!
//! What is deliberately absent: clocks and randomness (arguments), budgets (a later part of the same commit), policy
//! evaluation (the sidecar's, by digest).

mod command;
mod decide;
mod effect;
mod event;
mod expiry;
mod fold;
mod gate;
mod lookup;
mod reply;
pub mod retry;
mod run;
mod settle;
mod state;
pub mod status;
#[cfg(test)]
mod tests;
mod timed;
mod vote;

pub use command::*;
pub use decide::BATCH_MAX;
pub use effect::*;
pub use event::*;
pub use expiry::TICK_MAX;
pub use gate::*;
pub use reply::*;
pub use run::*;
pub use settle::RESOLUTION_CLASS;
pub use state::*;
pub use vote::REASON_MAX;

use crate::time::Timestamp;

/// What one command led to, before anything has changed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Facts to append, in order; empty when nothing changes.
    pub events: Vec<Event>,
    /// What to answer once the events are durable.
    pub reply: Reply,
    /// Errands for the driver once the events are durable.
    pub actions: Vec<Action>,
}

impl Outcome {
    fn reply(reply: Reply) -> Self {
        Self { reply, ..Self::default() }
    }
}

/// Decides one command against `state` at `now`, with 16 fresh random bytes for whatever it must name.
///
/// The caller guarantees `now >= state.last_ts()`. Never fails: a command that cannot be carried out is answered with a
/// refusal and no events. A repeated command is a no-op that is answered as the first was.
pub fn apply(state: &State, command: &Command, now: Timestamp, entropy: Entropy) -> Outcome {
    match command {
        Command::Decide(decide) => decide::decide(state, decide, now, entropy),
        Command::Settle(settle) => settle::settle(state, settle, now),
        Command::Renew(renew) => settle::renew(state, renew, now),
        Command::Abandon(abandon) => settle::abandon(state, abandon, now),
        Command::Observe(observe) => settle::observe(state, observe, now),
        Command::Evidence(evidence) => settle::evidence(state, evidence, now),
        Command::DecideGate(decision) => vote::decide_gate(state, decision, now),
        Command::Spans(spans) => run::spans(state, spans, now),
        Command::EnterRun(entered) => run::enter_named(state, entered, now),
        Command::Expire => expiry::expire(state, now),
    }
}

/// Sixteen random bytes from the driver, spent on the names that one command makes.
#[derive(Clone, Copy, Debug)]
pub struct Entropy([u8; 16]);

impl Entropy {
    /// Wraps bytes from the driver's random source.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The `n`th name drawn from these bytes: `prefix-` and 16 letters and digits (80 bits) that spell no words.
    fn name(self, prefix: &str, n: u32) -> String {
        use sha2::{Digest, Sha256};
        const ALPHABET: &[u8; 32] = b"bcdfghjklmnpqrstvwxz2456789bcdfg";
        let hash = Sha256::new().chain_update(self.0).chain_update(n.to_be_bytes()).finalize();
        let letters = hash.iter().take(16).map(|b| char::from(ALPHABET[usize::from(b % 25)]));
        format!("{prefix}-{}", letters.collect::<String>())
    }
}
