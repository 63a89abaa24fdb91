//! A Secret and configurations in memory, and API servers that learn of them late.

use std::collections::VecDeque;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::server::certificates::keeper::Cluster;
use crate::server::certificates::material::Kept;
use crate::server::stored::{ClusterError, Stored, Written};

/// Entries of the two configurations together.
const ENTRIES: usize = 3;

#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    secret: Option<Stored>,
    writes: u64,
    bundles: [String; ENTRIES],
    /// What all entries have in common since when.
    history: VecDeque<(Instant, String)>,
    is_away: bool,
    watchers: Vec<Arc<Notify>>,
}

impl Held {
    fn note(&mut self) {
        let bundle = self.bundles[0].clone();
        self.history.push_back((Instant::now(), bundle));
        self.watchers.iter().for_each(|watcher| watcher.notify_one());
    }
}

impl Memory {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    pub(super) fn watch(&self) -> Arc<Notify> {
        let watcher = Arc::new(Notify::new());
        self.held().watchers.push(Arc::clone(&watcher));
        watcher
    }

    /// What an API server goes by that is late by so much.
    pub(super) fn bundle(&self, late: Duration) -> String {
        let (held, now) = (self.held(), Instant::now());
        held.history
            .iter()
            .rev()
            .find(|(since, _)| now.duration_since(*since) >= late)
            .map_or_else(String::new, |(_, bundle)| bundle.clone())
    }

    pub(super) fn bundles(&self) -> [String; ENTRIES] {
        self.held().bundles.clone()
    }

    /// Somebody else writes an entry.
    pub(super) fn spoil(&self, entry: usize, bundle: &str) {
        let mut held = self.held();
        held.bundles[entry] = bundle.to_owned();
        held.note();
    }

    /// Somebody else writes the Secret, or deletes it.
    pub(super) fn spoil_secret(&self, bytes: Option<&[u8]>) {
        let mut held = self.held();
        held.writes += 1;
        let version = held.writes.to_string();
        held.secret = bytes.map(|bytes| Stored { bytes: bytes.to_vec(), version });
    }

    /// Nobody answers.
    pub(super) fn set_away(&self, is_away: bool) {
        self.held().is_away = is_away;
    }

    pub(super) fn kept(&self) -> Option<Kept> {
        Kept::read(&self.held().secret.as_ref()?.bytes).ok()
    }

    fn reach(&self) -> Result<std::sync::MutexGuard<'_, Held>, ClusterError> {
        let held = self.held();
        if held.is_away { Err(ClusterError { what: "memory".to_owned(), why: "away".to_owned() }) } else { Ok(held) }
    }
}

impl Cluster for Memory {
    fn read(&self) -> impl Future<Output = Result<Option<Stored>, ClusterError>> + Send {
        ready(self.reach().map(|held| held.secret.clone()))
    }

    fn write(&self, bytes: &[u8], over: Option<&Stored>) -> impl Future<Output = Result<Written, ClusterError>> + Send {
        ready(self.reach().map(|mut held| {
            if held.secret.as_ref().map(|secret| &secret.version) != over.map(|over| &over.version) {
                return Written::Conflict;
            }
            held.writes += 1;
            let version = held.writes.to_string();
            held.secret = Some(Stored { bytes: bytes.to_vec(), version });
            Written::Done
        }))
    }

    fn publish(&self, bundle: &str) -> impl Future<Output = Result<Vec<String>, ClusterError>> + Send {
        ready(self.reach().map(|mut held| {
            let before = held.bundles.to_vec();
            if before.iter().any(|found| found != bundle) {
                held.bundles = std::array::from_fn(|_| bundle.to_owned());
                held.note();
            }
            before
        }))
    }
}
