//! The journal: one append-only sequence of segments for each shard, owned by whoever holds its epoch.
//!
//! A backend is one small trait; every backend passes the one conformance suite in `conformance`.

#[cfg(test)]
mod conformance;
mod memory;
mod sqlite;

use std::future::Future;
use std::pin::Pin;

use sha2::{Digest, Sha256};

pub use memory::{Fault, MemoryJournal};
pub use sqlite::SqliteJournal;

/// The digest of the segment before the first.
pub const GENESIS: SegmentDigest = SegmentDigest([0; 32]);

/// SHA-256 over the previous segment's digest and this one's events.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentDigest([u8; 32]);

impl SegmentDigest {
    /// Chains `events` to `previous`.
    pub fn chain(previous: Self, events: &[u8]) -> Self {
        Self(Sha256::new().chain_update(previous.0).chain_update(events).finalize().into())
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads what a backend stored.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Debug for SegmentDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentDigest({}…)", hex::encode(&self.0[..4]))
    }
}

/// Where a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of segments.
    pub segments: u64,
    /// The last one's digest, or [`GENESIS`].
    pub digest: SegmentDigest,
}

/// Counts the owners of a shard; an append under an older epoch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// Wraps a stored epoch.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The count.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A piece of sealed data that lies beside the journal: the fold never reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What it belongs to.
    pub key: String,
    /// Its place among the chunks of that key.
    pub chunk: u32,
    /// Sealed bytes.
    pub bytes: Vec<u8>,
}

/// One append: events and blobs become durable together or not at all.
#[derive(Clone, Debug)]
pub struct Append {
    /// The owner's epoch.
    pub epoch: Epoch,
    /// Where the owner believes the journal ends.
    pub expected: Head,
    /// The packed events.
    pub events: Vec<u8>,
    /// Blobs written in the same transaction.
    pub blobs: Vec<Blob>,
}

/// Why a journal did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another owner has taken the epoch: stop serving.
    #[error("another owner holds epoch {now}; this one held {held}")]
    Deposed {
        /// The epoch that was held.
        held: u64,
        /// The epoch in force.
        now: u64,
    },
    /// The journal ends elsewhere than expected.
    #[error("the journal has {found} segments where {expected} were expected")]
    HeadMoved {
        /// Segments expected.
        expected: u64,
        /// Segments found.
        found: u64,
    },
    /// The append may or may not be durable: drop memory, acquire again, compare.
    #[error("whether the append is durable is not known: {0}")]
    Unknown(String),
    /// A stored segment does not fit its digest.
    #[error("segment {segment} does not fit its digest; the journal was changed or the disk is failing")]
    Corrupt {
        /// Its number, from 1.
        segment: u64,
    },
    /// The journal cannot be opened or read.
    #[error("{0}")]
    Unusable(String),
}

/// What a journal call returns.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, JournalError>> + Send + 'a>>;

/// One shard's journal. A call may hold up the thread that polls it, as the embedded backend's do, for as long as the disk takes;
/// an append is never cancelled once it was polled.
pub trait Journal: Send + Sync + 'static {
    /// Takes the next epoch: from now on older owners cannot append. Returns it with the journal's end.
    fn acquire(&self) -> Pending<'_, (Epoch, Head)>;

    /// Appends one segment by compare-and-swap on head and epoch. `Ok` means durable.
    fn append(&self, append: Append) -> Pending<'_, Head>;

    /// Up to `limit` segments after the first `after`, verified against their digests.
    fn read(&self, after: u64, limit: u32) -> Pending<'_, Vec<Vec<u8>>>;

    /// The chunks of one key in order; empty when there is none.
    fn read_blobs(&self, key: &str) -> Pending<'_, Vec<Vec<u8>>>;

    /// Up to `limit` keys that have chunks, in order, after the key `after`; the empty text comes before the first.
    fn blob_keys(&self, after: &str, limit: u32) -> Pending<'_, Vec<String>>;

    /// Drops the chunks of these keys: all of them or none.
    fn drop_blobs(&self, keys: &[String]) -> Pending<'_, ()>;
}
