//! Outcomes while the ledger is away: one fsynced file each, delivered in order, never dropped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kybernis_proto::v1;
use prost::Message as _;
use tokio::sync::Notify;

use super::SpoolError;
use crate::control::{Backoff, CallError, Control};

/// Bytes of outcomes on disk; half the volume that is set aside for the spool. Beyond it new effects are refused.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What every further effect may need: the largest stored answer with its head.
const RESERVE: u64 = 9 * 1024 * 1024;

const SETTLE: &str = "settle";
const ABANDON: &str = "abandon";

/// The outcomes on disk.
#[derive(Debug)]
pub struct Outcomes {
    folder: PathBuf,
    held: Mutex<Held>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Held {
    files: BTreeMap<u64, (PathBuf, u64)>,
    bytes: u64,
    last: u64,
}

impl Outcomes {
    pub(super) fn open(folder: &Path) -> Result<Self, SpoolError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError { path, source }
        };
        let mut held = Held::default();
        for entry in fs::read_dir(folder).map_err(failed(folder))? {
            let path = entry.map_err(failed(folder))?.path();
            let Some((number, kind)) = named(&path) else { continue };
            if kind == "partial" {
                // Never completed, so nothing was built on it.
                fs::remove_file(&path).map_err(failed(&path))?;
                continue;
            }
            let bytes = fs::metadata(&path).map_err(failed(&path))?.len();
            held.last = held.last.max(number);
            held.bytes += bytes;
            held.files.insert(number, (path, bytes));
        }
        Ok(Self { folder: folder.into(), held: Mutex::new(held), news: Notify::new() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more effect may be begun: its outcome, whatever it is, will have room.
    pub fn has_room(&self) -> bool {
        self.held().bytes + RESERVE <= BYTES_MAX
    }

    /// Whether anything waits to be delivered.
    pub fn is_empty(&self) -> bool {
        self.held().files.is_empty()
    }

    /// Keeps an outcome; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be made durable: the outcome is still the caller's to deliver.
    pub async fn settle(self: &std::sync::Arc<Self>, settle: &v1::SettleRequest) -> Result<(), SpoolError> {
        self.keep(SETTLE, settle.encode_to_vec()).await
    }

    /// Keeps word of a decision that was given up; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn abandon(self: &std::sync::Arc<Self>, abandon: &v1::AbandonRequest) -> Result<(), SpoolError> {
        self.keep(ABANDON, abandon.encode_to_vec()).await
    }

    async fn keep(self: &std::sync::Arc<Self>, kind: &'static str, bytes: Vec<u8>) -> Result<(), SpoolError> {
        let this = std::sync::Arc::clone(self);
        let number = {
            let mut held = self.held();
            held.last += 1;
            held.last
        };
        let written = tokio::task::spawn_blocking(move || this.write(number, kind, &bytes)).await;
        let lost = |source| SpoolError { path: self.folder.clone(), source };
        written.map_err(|error| lost(std::io::Error::other(error)))?
    }

    fn write(&self, number: u64, kind: &str, bytes: &[u8]) -> Result<(), SpoolError> {
        let path = self.folder.join(format!("{number:020}.{kind}"));
        let draft = path.with_extension("partial");
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source| SpoolError { path: path.clone(), source })?;
        let mut held = self.held();
        held.bytes += bytes.len() as u64;
        held.files.insert(number, (path, bytes.len() as u64));
        drop(held);
        self.news.notify_one();
        Ok(())
    }

    /// Delivers what is there, in order, and waits for more.
    pub(super) async fn deliver(self: std::sync::Arc<Self>, control: Control) {
        let mut backoff = Backoff::new();
        loop {
            let first = self.held().files.iter().next().map(|(number, (path, _))| (*number, path.clone()));
            let Some((number, path)) = first else {
                self.news.notified().await;
                continue;
            };
            match send(&control, &path).await {
                Ok(()) => {
                    self.done(number);
                    backoff.reset();
                }
                Err(CallError::Refused(reason)) => {
                    tracing::error!(file = %path.display(), reason, "the ledger does not take an outcome; it is kept as .refused");
                    let _ = fs::rename(&path, path.with_extension("refused"));
                    self.done(number);
                }
                Err(CallError::Away(_)) => backoff.wait().await,
            }
        }
    }

    fn done(&self, number: u64) {
        let mut held = self.held();
        if let Some((path, bytes)) = held.files.remove(&number) {
            held.bytes = held.bytes.saturating_sub(bytes);
            // A file that stays is delivered again by the next life, which changes nothing.
            let _ = fs::remove_file(path);
        }
    }
}

fn named(path: &Path) -> Option<(u64, &str)> {
    let kind = path.extension()?.to_str().filter(|kind| [SETTLE, ABANDON, "partial"].contains(kind))?;
    Some((path.file_stem()?.to_str()?.parse().ok()?, kind))
}

async fn send(control: &Control, path: &Path) -> Result<(), CallError> {
    let refused = |error: String| CallError::Refused(error);
    let bytes = fs::read(path).map_err(|error| refused(error.to_string()))?;
    match named(path) {
        Some((_, ABANDON)) => {
            let abandon = v1::AbandonRequest::decode(bytes.as_slice()).map_err(|error| refused(error.to_string()))?;
            control.abandon(abandon).await
        }
        _ => {
            let settle = v1::SettleRequest::decode(bytes.as_slice()).map_err(|error| refused(error.to_string()))?;
            control.settle(settle).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn settle(effect: &str, body: usize) -> v1::SettleRequest {
        let completed = v1::Completed { answer: None, body: vec![7; body] };
        v1::SettleRequest {
            effect: effect.to_owned(),
            outcome: Some(v1::settle_request::Outcome::Completed(completed)),
            ..v1::SettleRequest::default()
        }
    }

    #[tokio::test]
    async fn a_later_life_finds_what_an_earlier_one_left() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Outcomes::open(folder.path()).unwrap());
        spool.settle(&settle("eff-1", 10)).await.unwrap();
        spool.abandon(&v1::AbandonRequest { boot: "b".to_owned(), decision: "d".to_owned() }).await.unwrap();
        fs::write(folder.path().join("00000000000000000009.partial"), b"torn").unwrap();
        let again = Outcomes::open(folder.path()).unwrap();
        let held = again.held();
        assert_eq!(held.files.keys().copied().collect::<Vec<_>>(), [1, 2]);
        let read = v1::SettleRequest::decode(fs::read(&held.files[&1].0).unwrap().as_slice()).unwrap();
        assert_eq!(read, settle("eff-1", 10));
    }

    #[tokio::test]
    async fn a_full_spool_has_no_room_for_another_effect() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Outcomes::open(folder.path()).unwrap());
        for n in 0..7 {
            assert!(spool.has_room(), "after {n}");
            spool.settle(&settle("eff", 8 * 1024 * 1024)).await.unwrap();
        }
        assert!(!spool.has_room());
    }
}
