//! What there is by name, and each change of it, for whoever follows both without missing anything between them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

/// Changes that wait for a slow reader; one that falls further behind starts over.
pub(crate) const CHANGES: usize = 4096;

/// What became of a name: what stands under it now, or nothing.
pub(crate) type Change<K, V> = (K, Option<V>);

/// All that there is, and whatever changes after that.
pub(crate) type Watched<K, V> = (Vec<(K, V)>, broadcast::Receiver<Change<K, V>>);

/// What there is. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Board<K, V> {
    posted: Arc<Mutex<HashMap<K, V>>>,
    changes: broadcast::Sender<Change<K, V>>,
}

impl<K, V> Clone for Board<K, V> {
    fn clone(&self) -> Self {
        Self { posted: Arc::clone(&self.posted), changes: self.changes.clone() }
    }
}

/// The right to change a board: nobody else does, and nobody looks, while it is held.
pub(crate) struct Pen<'b, K, V> {
    posted: MutexGuard<'b, HashMap<K, V>>,
    changes: &'b broadcast::Sender<Change<K, V>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Board<K, V> {
    pub(crate) fn new() -> Self {
        Self { posted: Arc::default(), changes: broadcast::Sender::new(CHANGES) }
    }

    pub(crate) fn pen(&self) -> Pen<'_, K, V> {
        Pen { posted: self.posted.lock().unwrap_or_else(PoisonError::into_inner), changes: &self.changes }
    }

    pub(crate) fn watch(&self) -> Watched<K, V> {
        let pen = self.pen();
        let all = pen.posted.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        (all, self.changes.subscribe())
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Pen<'_, K, V> {
    pub(crate) fn get(&self, name: &K) -> Option<&V> {
        self.posted.get(name)
    }

    /// Everything that stands, in no order.
    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = &V> {
        self.posted.values()
    }

    /// This stands under the name from now on.
    pub(crate) fn post(&mut self, name: K, value: V) {
        self.posted.insert(name.clone(), value.clone());
        // Nobody may be watching.
        let _ = self.changes.send((name, Some(value)));
    }

    /// Nothing stands under the name any more.
    pub(crate) fn take_down(&mut self, name: K) {
        if self.forget(&name) {
            let _ = self.changes.send((name, None));
        }
    }

    /// The same, and nobody is told: whoever has seen it knows by itself that its time is over.
    pub(crate) fn forget(&mut self, name: &K) -> bool {
        self.posted.remove(name).is_some()
    }
}
