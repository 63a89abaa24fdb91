//! What one `fdatasync` costs on the disk of the journal, now: written as SQLite's log is, over pages that are there already.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::load::median;

/// SQLite's log is as long before it is written over from its beginning.
const LOG_BYTES: usize = 1 << 22;
/// Two pages and their frame headers: what an append of one effect's events touches.
const APPEND_BYTES: usize = 2 * (4096 + 24);

/// A file that is written as the journal's log is.
#[derive(Debug)]
pub(crate) struct Probe {
    file: File,
    at: usize,
}

impl Probe {
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(dir.join("fdatasync.probe"))?;
        file.write_all_at(&vec![1; LOG_BYTES], 0)?;
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    /// The median of `times` syncs, each after a write, without the write.
    pub(crate) fn p50(&mut self, times: usize) -> Result<Duration> {
        let bytes = [2; APPEND_BYTES];
        let mut took = Vec::with_capacity(times);
        for _ in 0..times {
            if self.at + APPEND_BYTES > LOG_BYTES {
                self.at = 0;
            }
            self.file.write_all_at(&bytes, self.at as u64)?;
            self.at += APPEND_BYTES;
            let began = Instant::now();
            self.file.sync_data()?;
            took.push(began.elapsed());
        }
        Ok(median(took).unwrap_or_default())
    }
}
