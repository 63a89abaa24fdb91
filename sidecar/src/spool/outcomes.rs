//! Outcomes while the ledger is away: one fsynced file each, delivered in order, never dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kybernis_proto::v1;
use prost::Message as _;
use tokio::sync::Notify;

use super::{SpoolError, write_durably};
use crate::control::{Backoff, CallError, Control};

/// Bytes of outcomes on disk; half the volume that is set aside for the spool. Beyond it new effects are refused. Those that
/// are under way by then add at most what the answers kept in memory come to, for which the stack has a bound of its own.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What every further effect may need: the largest stored answer with its head.
const RESERVE: u64 = 9 * 1024 * 1024;

const SETTLE: &str = "settle";
const ABANDON: &str = "abandon";
/// What the ledger does not take stays, for people to look at.
const REFUSED: &str = "refused";

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
            held.last = held.last.max(number);
            if kind == REFUSED {
                continue;
            }
            let bytes = fs::metadata(&path).map_err(failed(&path))?.len();
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
    pub async fn settle(self: &Arc<Self>, settle: &v1::SettleRequest) -> Result<(), SpoolError> {
        self.keep(SETTLE, settle.encode_to_vec()).await
    }

    /// Keeps an outcome that the ledger does not take, for people to look at.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn refused(self: &Arc<Self>, settle: &v1::SettleRequest) -> Result<(), SpoolError> {
        self.keep(REFUSED, settle.encode_to_vec()).await
    }

    /// Keeps word of a decision that was given up; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn abandon(self: &Arc<Self>, abandon: &v1::AbandonRequest) -> Result<(), SpoolError> {
        self.keep(ABANDON, abandon.encode_to_vec()).await
    }

    async fn keep(self: &Arc<Self>, kind: &'static str, bytes: Vec<u8>) -> Result<(), SpoolError> {
        let this = Arc::clone(self);
        let number = {
            let mut held = self.held();
            held.last += 1;
            held.last
        };
        let written = tokio::task::spawn_blocking(move || this.write(number, kind, &bytes)).await;
        let lost = |source| SpoolError { path: self.folder.clone(), source };
        written.map_err(|error| lost(io::Error::other(error)))?
    }

    fn write(&self, number: u64, kind: &str, bytes: &[u8]) -> Result<(), SpoolError> {
        let path = self.folder.join(format!("{number:020}.{kind}"));
        write_durably(&path, bytes)?;
        if kind == REFUSED {
            return Ok(());
        }
        let mut held = self.held();
        held.bytes += bytes.len() as u64;
        held.files.insert(number, (path, bytes.len() as u64));
        drop(held);
        self.news.notify_one();
        Ok(())
    }

    /// Delivers what is there, in order, and waits for more.
    pub(super) async fn deliver(self: Arc<Self>, control: Control) {
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
                    let _ = fs::rename(&path, path.with_extension(REFUSED));
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
    let kind = path.extension()?.to_str().filter(|kind| [SETTLE, ABANDON, REFUSED].contains(kind))?;
    Some((path.file_stem()?.to_str()?.parse().ok()?, kind))
}

async fn send(control: &Control, path: &Path) -> Result<(), CallError> {
    let torn = |error: prost::DecodeError| CallError::Refused(error.to_string());
    // A disk that cannot be read now may be read later; what lies on it is not given up.
    let bytes = fs::read(path).map_err(|error| {
        tracing::error!(file = %path.display(), %error, "an outcome cannot be read from the spool");
        CallError::Away(error.to_string())
    })?;
    match named(path) {
        Some((_, ABANDON)) => control.abandon(v1::AbandonRequest::decode(bytes.as_slice()).map_err(torn)?).await,
        _ => control.settle(v1::SettleRequest::decode(bytes.as_slice()).map_err(torn)?).await.map(drop),
    }
}

#[cfg(test)]
mod tests {
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
        spool.refused(&settle("eff-2", 10)).await.unwrap();
        fs::write(folder.path().join("00000000000000000009.settle.partial"), b"torn").unwrap();
        super::super::remove_drafts(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "a draft stayed");
        let again = Outcomes::open(folder.path()).unwrap();
        let held = again.held();
        assert_eq!(held.files.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(held.last, 3, "the number of what was refused is given again");
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
