//! Which sidecars are live and what they run with, for whoever must say that a policy is in force everywhere.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kybernis_core::ids::{AgentId, TenantId};
use tokio::sync::broadcast;

/// Changes that wait for a slow reader; one that falls further behind starts over.
const CHANGES: usize = 4096;

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

/// What became of a seat: its sidecar as it is now, or nobody.
pub(crate) type Change = (Seat, Option<Sidecar>);

/// Every live sidecar of the ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    seats: Arc<Mutex<Seats>>,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug, Default)]
struct Seats {
    /// With the number of the stream that says so: one that ends takes away only what it has said itself.
    taken: HashMap<Seat, (u64, Sidecar)>,
    streams: u64,
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
        Self { seats: Arc::default(), changes: broadcast::Sender::new(CHANGES) }
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of the sidecar in this pod begins.
    pub(crate) fn enter(&self, seat: Seat) -> Stream {
        let mut seats = self.seats();
        seats.streams += 1;
        Stream { fleet: self.clone(), seat, number: seats.streams }
    }

    /// Everyone who is live, and whatever changes after that.
    pub(crate) fn watch(&self) -> (Vec<(Seat, Sidecar)>, broadcast::Receiver<Change>) {
        let seats = self.seats();
        let live = seats.taken.iter().map(|(seat, (_, sidecar))| (seat.clone(), sidecar.clone())).collect();
        (live, self.changes.subscribe())
    }
}

impl Stream {
    /// The sidecar says what it runs with.
    pub(crate) fn says(&self, sidecar: Sidecar) {
        let mut seats = self.fleet.seats();
        let later = seats.taken.get(&self.seat).is_some_and(|(number, _)| *number > self.number);
        if later {
            return;
        }
        let before = seats.taken.insert(self.seat.clone(), (self.number, sidecar.clone()));
        if before.is_none_or(|(_, before)| before != sidecar) {
            // Nobody may be watching.
            let _ = self.fleet.changes.send((self.seat.clone(), Some(sidecar)));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut seats = self.fleet.seats();
        if seats.taken.get(&self.seat).is_some_and(|(number, _)| *number == self.number) {
            seats.taken.remove(&self.seat);
            let _ = self.fleet.changes.send((self.seat.clone(), None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(fleet.watch().0, [], "a sidecar that has said nothing yet is not known");
        first.says(runs_with(1));
        let (live, mut changes) = fleet.watch();
        assert_eq!(live, [(seat("pod-1"), runs_with(1))]);
        first.says(runs_with(1));
        first.says(runs_with(2));
        drop(first);
        assert_eq!(changes.try_recv().unwrap(), (seat("pod-1"), Some(runs_with(2))));
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
        assert_eq!(fleet.watch().0, [(seat("pod-1"), runs_with(2))]);
        drop(newer);
        assert_eq!(fleet.watch().0, []);
    }

    #[test]
    fn a_watcher_that_fell_behind_is_told_so() {
        let fleet = Fleet::new();
        let stream = fleet.enter(seat("pod-1"));
        let (_, mut changes) = fleet.watch();
        for digest in 0..=CHANGES {
            stream.says(runs_with((digest % 251) as u8));
        }
        assert!(matches!(changes.try_recv(), Err(broadcast::error::TryRecvError::Lagged(1))));
    }
}
