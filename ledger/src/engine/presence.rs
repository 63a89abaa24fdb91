//! Which sidecars are in touch. One that stays away takes its callers with it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kybernis_core::ids::BootId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::Ask;

/// Says that a sidecar is in touch; dropping it says that it is not.
#[derive(Debug)]
pub struct PresenceGuard {
    asks: mpsc::Sender<Ask>,
    boot: BootId,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ask(…)")
    }
}

impl PresenceGuard {
    pub(super) fn new(asks: mpsc::Sender<Ask>, boot: BootId) -> Self {
        send(&asks, boot.clone(), true);
        Self { asks, boot }
    }
}

impl Drop for PresenceGuard {
    fn drop(&mut self) {
        send(&self.asks, self.boot.clone(), false);
    }
}

/// Presence is advice: where the queue is full it is sent from a task of its own, in whatever order that gives, because
/// what counts is how long a sidecar has been away.
fn send(asks: &mpsc::Sender<Ask>, boot: BootId, present: bool) {
    if let Err(mpsc::error::TrySendError::Full(ask)) = asks.try_send(Ask::Presence { boot, present }) {
        let asks = asks.clone();
        tokio::spawn(async move {
            let _ = asks.send(ask).await;
        });
    }
}

/// The sidecars that were seen, and since when none of their connections is open.
#[derive(Debug, Default)]
pub(super) struct Presence {
    boots: HashMap<BootId, Seen>,
}

#[derive(Debug)]
struct Seen {
    open: usize,
    away_since: Instant,
}

impl Presence {
    /// The sidecars whose callers the journal knows: each has to come into touch or is gone.
    pub(super) fn expect(&mut self, boots: HashSet<BootId>) {
        let away_since = Instant::now();
        for boot in boots {
            self.boots.entry(boot).or_insert(Seen { open: 0, away_since });
        }
    }

    pub(super) fn note(&mut self, boot: BootId, present: bool) {
        let seen = self.boots.entry(boot).or_insert(Seen { open: 0, away_since: Instant::now() });
        if present {
            seen.open += 1;
        } else {
            seen.open = seen.open.saturating_sub(1);
            seen.away_since = Instant::now();
        }
    }

    /// Since when a sidecar is out of touch; `None` for one that is in touch, or of which nothing is known.
    pub(super) fn away_since(&self, boot: &BootId) -> Option<Instant> {
        self.boots.get(boot).filter(|seen| seen.open == 0).map(|seen| seen.away_since)
    }

    /// Forgets and returns those that were away for longer than `absence`.
    pub(super) fn gone(&mut self, absence: Duration) -> Vec<BootId> {
        let is_gone = |seen: &Seen| seen.open == 0 && seen.away_since.elapsed() > absence;
        let gone: Vec<_> = self.boots.iter().filter(|(_, seen)| is_gone(seen)).map(|(boot, _)| boot.clone()).collect();
        for boot in &gone {
            self.boots.remove(boot);
        }
        gone
    }
}
