//! Records of which time alone asks something, found by the instant at which it does: what a tick costs is what is due, not
//! what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use crate::time::Timestamp;

/// A record that may ask for something once its time has come.
pub(super) trait Due {
    /// When; `None` while it waits for something else than time.
    fn due(&self) -> Option<Timestamp>;
}

/// Records by name, and the order in which they fall due. No record changes but through [`Change`], so the order holds.
#[derive(Clone, Debug)]
pub(super) struct Timed<K, V> {
    records: BTreeMap<K, V>,
    due: BTreeSet<(Timestamp, K)>,
}

impl<K, V> Default for Timed<K, V> {
    fn default() -> Self {
        Self { records: BTreeMap::new(), due: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V: Due> Timed<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.records.get(key)
    }

    /// Every record by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.records.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.records.values()
    }

    /// What is due at `now`, longest due first.
    pub(super) fn due_by(&self, now: Timestamp) -> impl Iterator<Item = (&K, &V)> {
        self.due.iter().take_while(move |(at, _)| *at <= now).filter_map(|(_, key)| self.records.get_key_value(key))
    }

    pub(super) fn insert(&mut self, key: K, record: V) {
        self.remove(&key);
        self.due.extend(record.due().map(|at| (at, key.clone())));
        self.records.insert(key, record);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let record = self.records.remove(key)?;
        if let Some(at) = record.due() {
            self.due.remove(&(at, key.clone()));
        }
        Some(record)
    }

    /// One record, to be changed.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<Change<'_, K, V>> {
        let record = self.records.get_mut(key)?;
        Some(Change { key: key.clone(), was_due: record.due(), record, due: &mut self.due })
    }

    /// Every record, to be changed.
    pub(super) fn change_all(&mut self, change: impl Fn(&mut V)) {
        for (key, record) in &mut self.records {
            change(&mut Change { key: key.clone(), was_due: record.due(), record, due: &mut self.due });
        }
    }
}

/// A record while it is changed; its place in the order follows when this is dropped.
pub(super) struct Change<'t, K: Ord + Clone, V: Due> {
    key: K,
    was_due: Option<Timestamp>,
    record: &'t mut V,
    due: &'t mut BTreeSet<(Timestamp, K)>,
}

impl<K: Ord + Clone, V: Due> Deref for Change<'_, K, V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.record
    }
}

impl<K: Ord + Clone, V: Due> DerefMut for Change<'_, K, V> {
    fn deref_mut(&mut self) -> &mut V {
        self.record
    }
}

impl<K: Ord + Clone, V: Due> Drop for Change<'_, K, V> {
    fn drop(&mut self) {
        let is_due = self.record.due();
        if is_due == self.was_due {
            return;
        }
        if let Some(at) = self.was_due {
            self.due.remove(&(at, self.key.clone()));
        }
        self.due.extend(is_due.map(|at| (at, self.key.clone())));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts how often a record is asked for its time.
    #[derive(Debug, PartialEq)]
    struct Alarm(Option<u64>);

    impl Due for Alarm {
        fn due(&self) -> Option<Timestamp> {
            LOOKS.set(LOOKS.get() + 1);
            self.0.map(Timestamp::from_epoch_ms)
        }
    }

    fn due(timed: &Timed<u32, Alarm>, now: u64) -> Vec<u64> {
        timed.due_by(Timestamp::from_epoch_ms(now)).filter_map(|(_, alarm)| alarm.0).collect()
    }

    #[test]
    fn a_tick_looks_at_what_is_due_and_at_nothing_else() {
        let mut timed = Timed::default();
        (0..10_000).for_each(|n| timed.insert(n, Alarm(Some(1_000 + u64::from(n)))));
        LOOKS.set(0);
        assert_eq!(due(&timed, 1_002), [1_000, 1_001, 1_002]);
        assert_eq!(LOOKS.get(), 0, "the order is kept, not looked for");
    }

    #[test]
    fn the_order_follows_every_change() {
        let mut timed = Timed::default();
        (1..=3).for_each(|n| timed.insert(n, Alarm(Some(u64::from(n)))));
        timed.get_mut(&1).unwrap().0 = Some(9);
        assert_eq!(due(&timed, 9), [2, 3, 9]);
        timed.get_mut(&2).unwrap().0 = None;
        assert_eq!(due(&timed, 9), [3, 9]);
        timed.insert(2, Alarm(Some(4)));
        timed.insert(3, Alarm(Some(5)));
        assert_eq!(due(&timed, 9), [4, 5, 9]);
        timed.change_all(|alarm| alarm.0 = alarm.0.map(|at| at + 10));
        assert_eq!(due(&timed, 15), [14, 15]);
        assert_eq!(timed.remove(&2), Some(Alarm(Some(14))));
        assert_eq!(due(&timed, 99), [15, 19]);
    }
}
