//! Time since boot, suspension included: what `send_by` and leases are counted on, behind a source that tests can move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// An instant on `CLOCK_BOOTTIME`, in nanoseconds since boot. A suspended machine's sleep counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(u64);

impl BootInstant {
    /// The instant `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// This instant moved later by `span`; saturates.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos_of(span)))
    }

    /// This instant moved earlier by `span`; stops at boot.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos_of(span)))
    }

    /// How far this instant lies after `earlier`; zero when it does not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos_of(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads the boot clock. Cheap to clone; every clone of a manual clock shows the same hands.
#[derive(Clone, Debug, Default)]
pub struct BootClock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    Kernel,
    Manual(Arc<AtomicU64>),
}

impl BootClock {
    /// The kernel's `CLOCK_BOOTTIME`.
    pub const fn kernel() -> Self {
        Self(Source::Kernel)
    }

    /// A clock that stands still until [`BootClock::advance`] moves it.
    pub fn manual(start: BootInstant) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(start.0))))
    }

    /// The instant now.
    pub fn now(&self) -> BootInstant {
        match &self.0 {
            Source::Kernel => {
                let ts = clock_gettime(ClockId::Boottime);
                let secs = u64::try_from(ts.tv_sec).unwrap_or(0);
                let nanos = u64::try_from(ts.tv_nsec).unwrap_or(0);
                BootInstant(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
            }
            Source::Manual(hands) => BootInstant(hands.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock; the kernel's cannot be moved and ignores this.
    pub fn advance(&self, span: Duration) {
        if let Source::Manual(hands) = &self.0 {
            hands.fetch_add(nanos_of(span), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_clock_runs_and_a_manual_one_moves_only_when_told() {
        let kernel = BootClock::kernel();
        assert!(kernel.now() > BootInstant::default());
        let manual = BootClock::manual(BootInstant::from_nanos(5));
        let shared = manual.clone();
        assert_eq!(manual.now(), BootInstant::from_nanos(5));
        shared.advance(Duration::from_nanos(7));
        assert_eq!(manual.now(), BootInstant::from_nanos(12));
        assert_eq!(manual.now().before(Duration::from_secs(1)), BootInstant::default());
    }
}
