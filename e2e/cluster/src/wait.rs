//! Waiting for a thing to be so, with a bound and words for what was waited for.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a thing is looked at. Most of them are a file or a cheap request away.
pub(crate) const PACE: Duration = Duration::from_millis(50);

/// Looks until `check` has something; an error of `check` ends the wait at once.
pub(crate) fn until<T>(what: &str, patience: Duration, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = check()? {
            return Ok(found);
        }
        if start.elapsed() > patience {
            bail!("waited {} s in vain until {what}", patience.as_secs());
        }
        thread::sleep(PACE);
    }
}
