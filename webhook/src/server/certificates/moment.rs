//! A point in time as certificates and the Secret know it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// By this machine's clock.
    pub(crate) fn now() -> Self {
        Self(millis(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()))
    }

    pub(crate) fn after(self, length: Duration) -> Self {
        Self(self.0.saturating_add(millis(length)))
    }

    /// How long from `earlier` until now; nothing where that lies ahead.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub(crate) const fn unix_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Certificates count whole seconds: the second that this moment lies in.
    pub(crate) fn floor(self) -> time::OffsetDateTime {
        Self::whole(self.0 / 1000)
    }

    /// The first whole second that is not before this moment.
    pub(crate) fn ceil(self) -> time::OffsetDateTime {
        Self::whole(self.0.div_ceil(1000))
    }

    fn whole(seconds: u64) -> time::OffsetDateTime {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
