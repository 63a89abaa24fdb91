//! A journal in memory, for simulation: with the faults that a real store only has on its worst day.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Append, Epoch, GENESIS, Head, Journal, JournalError, Pending, SegmentDigest};

/// What goes wrong with the next append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails before it is durable, and the caller cannot tell.
    LostBeforeCommit,
    /// It is durable, and the caller is told that nobody knows.
    LostAfterCommit,
}

/// A journal in memory.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    epoch: u64,
    segments: Vec<Vec<u8>>,
    digests: Vec<SegmentDigest>,
    blobs: BTreeMap<(String, u32), Vec<u8>>,
    faults: Vec<Fault>,
}

impl MemoryJournal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next append fail in this way.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in another holder leaves whole values behind: every change below is a single push or insert.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn head(&self) -> Head {
        Head { segments: self.segments.len() as u64, digest: self.digests.last().copied().unwrap_or(GENESIS) }
    }

    fn append(&mut self, append: Append) -> Result<Head, JournalError> {
        if append.epoch.get() != self.epoch {
            return Err(JournalError::Deposed { held: append.epoch.get(), now: self.epoch });
        }
        let head = self.head();
        if append.expected != head {
            return Err(JournalError::HeadMoved { expected: append.expected.segments, found: head.segments });
        }
        let fault = self.faults.pop();
        if fault == Some(Fault::LostBeforeCommit) {
            return Err(JournalError::Unknown("injected before commit".to_owned()));
        }
        self.digests.push(SegmentDigest::chain(head.digest, &append.events));
        self.segments.push(append.events);
        self.blobs.extend(append.blobs.into_iter().map(|blob| ((blob.key, blob.chunk), blob.bytes)));
        if fault == Some(Fault::LostAfterCommit) {
            return Err(JournalError::Unknown("injected after commit".to_owned()));
        }
        Ok(self.head())
    }
}

impl Journal for MemoryJournal {
    fn acquire(&self) -> Pending<'_, (Epoch, Head)> {
        let mut inner = self.lock();
        inner.epoch += 1;
        let answer = (Epoch::new(inner.epoch), inner.head());
        Box::pin(async move { Ok(answer) })
    }

    fn append(&self, append: Append) -> Pending<'_, Head> {
        let result = self.lock().append(append);
        Box::pin(async move { result })
    }

    fn read(&self, after: u64, limit: u32) -> Pending<'_, Vec<Vec<u8>>> {
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        let segments = self.lock().segments.iter().skip(skip).take(limit as usize).cloned().collect();
        Box::pin(async move { Ok(segments) })
    }

    fn read_blobs(&self, key: &str) -> Pending<'_, Vec<Vec<u8>>> {
        let range = (key.to_owned(), 0)..=(key.to_owned(), u32::MAX);
        let chunks = self.lock().blobs.range(range).map(|(_, bytes)| bytes.clone()).collect();
        Box::pin(async move { Ok(chunks) })
    }

    fn blob_keys(&self, after: &str, limit: u32) -> Pending<'_, Vec<String>> {
        let mut keys: Vec<String> = self.lock().blobs.keys().map(|(key, _)| key.clone()).filter(|key| key.as_str() > after).collect();
        keys.dedup();
        keys.truncate(limit as usize);
        Box::pin(async move { Ok(keys) })
    }

    fn drop_blobs(&self, keys: &[String]) -> Pending<'_, ()> {
        self.lock().blobs.retain(|(known, _), _| !keys.contains(known));
        Box::pin(async { Ok(()) })
    }
}
