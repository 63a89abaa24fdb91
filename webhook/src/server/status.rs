//! How the webhook does: what probes ask and what metrics tell beside the reviews.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;

use super::certificates::moment::Moment;

/// Shared by whoever knows something of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status(Arc<Facts>);

#[derive(Debug, Default)]
struct Facts {
    is_published: AtomicBool,
    is_closing: AtomicBool,
    serves_until: AtomicU64,
    mended: AtomicU64,
    problem: ArcSwapOption<String>,
}

impl Status {
    /// The configurations hold our authority. Once is enough: whether they still do is mended, not probed, since a webhook that
    /// is not ready is one that cannot be reached at all.
    pub(crate) fn published(&self) {
        self.0.is_published.store(true, Relaxed);
    }

    pub(crate) fn is_published(&self) -> bool {
        self.0.is_published.load(Relaxed)
    }

    /// No more connections are wanted.
    pub(crate) fn close(&self) {
        self.0.is_closing.store(true, Relaxed);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.0.is_closing.load(Relaxed)
    }

    pub(crate) fn serves_until(&self, ends: Moment) {
        self.0.serves_until.store(ends.unix_seconds(), Relaxed);
    }

    /// In seconds since 1970; 0 where that is not known.
    pub(crate) fn serving_until(&self) -> u64 {
        self.0.serves_until.load(Relaxed)
    }

    pub(crate) fn mended(&self, entries: usize) {
        self.0.mended.fetch_add(u64::try_from(entries).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn mended_total(&self) -> u64 {
        self.0.mended.load(Relaxed)
    }

    /// How keeping the certificates went.
    pub(crate) fn kept(&self, problem: Option<String>) {
        self.0.problem.store(problem.map(Arc::new));
    }

    pub(crate) fn problem(&self) -> Option<Arc<String>> {
        self.0.problem.load_full()
    }
}
