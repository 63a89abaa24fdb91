//! Which sidecars are live and what they run with, for whoever must say that a policy is in force everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kybernis_core::ids::{AgentId, TenantId};

use crate::board::{Board, Watched};

/// A sidecar whose policy stream is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub(crate) agent: AgentId,
    pub(crate) labels: BTreeMap<String, String>,
    /// The PolicySet that it runs with; empty before the first.
    pub(crate) digest: Vec<u8>,
    /// Why it could not take the last one into force; empty when it could.
    pub(crate) error: String,
}

/// A tenant and one of its pods.
pub(crate) type Seat = (TenantId, String);

/// A sidecar in its seat, with the number of the stream that says so: one that ends takes away only what it has said itself.
pub(crate) type Seated = (u64, Sidecar);

/// Every live sidecar of the ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    seats: Board<Seat, Seated>,
    streams: Arc<AtomicU64>,
}

/// One sidecar's stream. While it lives, what it has said last stands.
#[derive(Debug)]
pub(crate) struct Stream {
    fleet: Fleet,
    seat: Seat,
    number: u64,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self { seats: Board::new(), streams: Arc::default() }
    }

    /// A stream of the sidecar in this pod begins.
    pub(crate) fn enter(&self, seat: Seat) -> Stream {
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        Stream { fleet: self.clone(), seat, number }
    }

    /// How many are live.
    pub(crate) fn live(&self) -> usize {
        self.seats.pen().all().len()
    }

    /// Everyone who is live, and whatever changes after that.
    pub(crate) fn watch(&self) -> Watched<Seat, Seated> {
        self.seats.watch()
    }
}

impl Stream {
    /// The sidecar says what it runs with.
    pub(crate) fn says(&self, sidecar: Sidecar) {
        let mut seats = self.fleet.seats.pen();
        let now = (self.number, sidecar);
        let before = seats.get(&self.seat);
        let is_later = before.is_some_and(|(number, _)| *number > self.number);
        if !is_later && before != Some(&now) {
            seats.post(self.seat.clone(), now);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut seats = self.fleet.seats.pen();
        if seats.get(&self.seat).is_some_and(|(number, _)| *number == self.number) {
            seats.take_down(self.seat.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;
    use crate::board::CHANGES;

    fn live(fleet: &Fleet) -> Vec<(Seat, Sidecar)> {
        fleet.watch().0.into_iter().map(|(seat, (_, sidecar))| (seat, sidecar)).collect()
    }

    fn seat(pod: &str) -> Seat {
        (TenantId::new("trading").unwrap(), pod.to_owned())
    }

    fn runs_with(digest: u8) -> Sidecar {
        let agent = AgentId::new("trading/trader/Deployment/trader").unwrap();
        Sidecar { agent, labels: BTreeMap::new(), digest: vec![digest], error: String::new() }
    }

    #[test]
    fn a_watcher_sees_who_is_there_and_then_each_change_once() {
        let fleet = Fleet::new();
        let first = fleet.enter(seat("pod-1"));
        assert_eq!(live(&fleet), [], "a sidecar that has said nothing yet is not known");
        first.says(runs_with(1));
        let (_, mut changes) = fleet.watch();
        assert_eq!(live(&fleet), [(seat("pod-1"), runs_with(1))]);
        first.says(runs_with(1));
        first.says(runs_with(2));
        drop(first);
        let (changed, now) = changes.try_recv().unwrap();
        assert_eq!((changed, now.map(|(_, sidecar)| sidecar)), (seat("pod-1"), Some(runs_with(2))));
        assert_eq!(changes.try_recv().unwrap(), (seat("pod-1"), None));
        assert!(changes.try_recv().is_err());
    }

    #[test]
    fn an_older_stream_s_end_takes_nothing_from_a_newer_one() {
        let fleet = Fleet::new();
        let older = fleet.enter(seat("pod-1"));
        older.says(runs_with(1));
        let newer = fleet.enter(seat("pod-1"));
        newer.says(runs_with(2));
        older.says(runs_with(1));
        drop(older);
        assert_eq!(live(&fleet), [(seat("pod-1"), runs_with(2))]);
        drop(newer);
        assert_eq!(live(&fleet), []);
    }

    #[test]
    fn a_watcher_that_fell_behind_is_told_so() {
        let fleet = Fleet::new();
        let stream = fleet.enter(seat("pod-1"));
        let (_, mut changes) = fleet.watch();
        for digest in 0..=CHANGES {
            stream.says(runs_with((digest % 251) as u8));
        }
        assert!(matches!(changes.try_recv(), Err(TryRecvError::Lagged(1))));
    }
}
