//! Who may hold a connection. Whoever reaches the port may open as many as they like, and admission must not wait for them: where all
//! places are taken, somebody who asks nothing leaves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The places, and who holds one.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// By the order in which they came.
    by_number: HashMap<u64, Holder>,
    last: u64,
}

#[derive(Debug)]
struct Holder {
    /// Since when nothing is asked; nothing while an answer is made.
    idle: Option<Instant>,
    has_asked: CancellationToken,
    leave: CancellationToken,
}

impl Places {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: Mutex::default(), changed: Notify::new() })
    }

    /// A place, at once unless all are at work.
    pub(crate) async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.changed.notified().await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut held = self.held();
        if held.by_number.len() >= self.max {
            held.make_room()?;
        }
        held.last += 1;
        let place =
            Place { number: held.last, has_asked: CancellationToken::new(), leave: CancellationToken::new(), places: Arc::clone(self) };
        let holder = Holder { idle: Some(Instant::now()), has_asked: place.has_asked.clone(), leave: place.leave.clone() };
        held.by_number.insert(place.number, holder);
        Some(place)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Sends somebody away: who has asked nothing yet before who has, and of those who has idled longest.
    fn make_room(&mut self) -> Option<()> {
        let idle = self.by_number.iter().filter_map(|(number, holder)| Some((holder.has_asked.is_cancelled(), holder.idle?, *number)));
        let (_, _, number) = idle.min()?;
        self.by_number.remove(&number)?.leave.cancel();
        Some(())
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    has_asked: CancellationToken,
    leave: CancellationToken,
    places: Arc<Places>,
}

impl Place {
    /// A request has come.
    pub(crate) fn asked(&self) {
        self.has_asked.cancel();
        self.set_idle(None);
    }

    /// Its answer is made.
    pub(crate) fn answered(&self) {
        self.set_idle(Some(Instant::now()));
        self.places.changed.notify_one();
    }

    /// Until the first request comes.
    pub(crate) async fn has_asked(&self) {
        self.has_asked.cancelled().await;
    }

    /// Until somebody else needs the place.
    pub(crate) async fn must_leave(&self) {
        self.leave.cancelled().await;
    }

    fn set_idle(&self, idle: Option<Instant>) {
        if let Some(holder) = self.places.held().by_number.get_mut(&self.number) {
            holder.idle = idle;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().by_number.remove(&self.number);
        self.places.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_asked_nothing_leaves_first_and_who_is_at_work_stays() {
        let places = Places::new(4);
        let [asked, working, first] = [(); 3].map(|()| places.try_take().unwrap());
        // In another order than they came.
        for place in [&first, &asked, &working] {
            place.asked();
            place.answered();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        working.asked();
        let silent = places.try_take().unwrap();
        let gone = || [&asked, &working, &first, &silent].map(|place| place.leave.is_cancelled());
        let mut newcomers = Vec::new();
        for expect in [[false, false, false, true], [false, false, true, true], [true, false, true, true]] {
            let newcomer = places.try_take().unwrap();
            newcomer.asked();
            newcomers.push(newcomer);
            assert_eq!(gone(), expect);
        }
        let mut waiting = Box::pin(tokio::time::timeout(Duration::from_secs(1), places.take()));
        assert!(futures::poll!(&mut waiting).is_pending(), "all are at work");
        working.answered();
        newcomers.push(waiting.await.expect("a place, once one has its answer"));
        assert_eq!(gone(), [true; 4]);
        drop([asked, working, first, silent]);
        assert_eq!(places.held().by_number.len(), 4, "who has been sent away takes no place with them");
        drop(newcomers);
        assert!(places.held().by_number.is_empty());
    }
}
