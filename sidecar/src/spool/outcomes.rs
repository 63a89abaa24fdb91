//! Outcomes while the ledger is away: one fsynced file each, delivered in order, never dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kybernis_proto::v1;
use prost::Message as _;
use tokio::sync::Notify;

use super::{BARE_ROOM, REFUSED_MAX, SpoolError, encode_within, set_aside, write_durably};
use crate::control::{Backoff, CallError, Control};

/// Bytes of outcomes on disk; half the volume that is set aside for the spool. New effects are refused before it is reached, and
/// those that are under way by then keep their answers only as far as there is room.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What a further effect may need: the largest stored answer with its head.
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
    /// Of these and of what is being written.
    bytes: u64,
    /// Bytes of what the ledger did not take.
    refused: u64,
    last: u64,
}

impl Held {
    /// What the next outcome may come to with its answer.
    fn room(&self) -> u64 {
        BYTES_MAX.saturating_sub(BARE_ROOM + self.bytes + self.refused)
    }

    fn refused_room(&self) -> u64 {
        self.room().min(REFUSED_MAX.saturating_sub(self.refused))
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
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
            let bytes = fs::metadata(&path).map_err(failed(&path))?.len();
            if kind == REFUSED {
                held.refused += bytes;
                continue;
            }
            held.bytes += bytes;
            held.files.insert(number, (path, bytes));
        }
        Ok(Self { folder: folder.into(), held: Mutex::new(held), news: Notify::new() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more effect may be begun: its outcome, with its answer, would have room now.
    pub fn has_room(&self) -> bool {
        self.held().bytes + RESERVE <= BYTES_MAX
    }

    /// Whether anything waits to be delivered.
    pub fn is_empty(&self) -> bool {
        self.held().files.is_empty()
    }

    /// Keeps an outcome, without its answer where the disk has no room for that; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be made durable: the outcome is still the caller's to deliver.
    pub async fn settle(self: &Arc<Self>, settle: &v1::SettleRequest) -> Result<(), SpoolError> {
        self.keep(SETTLE, |room| encode_within(room, settle)).await
    }

    /// Keeps word of a decision that was given up; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn abandon(self: &Arc<Self>, abandon: &v1::AbandonRequest) -> Result<(), SpoolError> {
        self.keep(ABANDON, |_| abandon.encode_to_vec()).await
    }

    /// Keeps an outcome that the ledger does not take, for people to look at.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn refused(self: &Arc<Self>, settle: &v1::SettleRequest) -> Result<(), SpoolError> {
        let (number, encoded) = {
            let mut held = self.held();
            let encoded = encode_within(held.refused_room(), settle);
            held.refused += encoded.len() as u64;
            (held.number(), encoded)
        };
        self.off_the_runtime(move |this| write_durably(&this.path(number, REFUSED), &encoded)).await
    }

    async fn keep(self: &Arc<Self>, kind: &'static str, encode: impl FnOnce(u64) -> Vec<u8>) -> Result<(), SpoolError> {
        // The room is taken before the disk is asked: outcomes that come together must not count on the same.
        let (number, encoded) = {
            let mut held = self.held();
            let encoded = encode(held.room());
            held.bytes += encoded.len() as u64;
            (held.number(), encoded)
        };
        self.off_the_runtime(move |this| this.write(number, kind, &encoded)).await
    }

    async fn off_the_runtime(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<(), SpoolError> + Send + 'static,
    ) -> Result<(), SpoolError> {
        let this = Arc::clone(self);
        let lost = |error| SpoolError { path: self.folder.clone(), source: io::Error::other(error) };
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(lost)?
    }

    fn path(&self, number: u64, kind: &str) -> PathBuf {
        self.folder.join(format!("{number:020}.{kind}"))
    }

    fn write(&self, number: u64, kind: &str, bytes: &[u8]) -> Result<(), SpoolError> {
        let path = self.path(number, kind);
        let written = write_durably(&path, bytes);
        let mut held = self.held();
        match written {
            Ok(()) => held.files.insert(number, (path, bytes.len() as u64)),
            Err(error) => {
                held.bytes -= bytes.len() as u64;
                return Err(error);
            }
        };
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
                    if let Err(error) = self.set_aside(number, path).await {
                        tracing::error!(%error, "an outcome that the ledger does not take could not be set aside");
                    }
                }
                Err(CallError::Away(_)) => backoff.wait().await,
            }
        }
    }

    async fn set_aside(self: &Arc<Self>, number: u64, path: PathBuf) -> Result<(), SpoolError> {
        self.off_the_runtime(move |this| {
            // Taken before the disk is asked, like the room of every outcome.
            let room = {
                let mut held = this.held();
                let room = held.refused_room();
                held.refused += room;
                room
            };
            let set_aside = set_aside(&path, &path.with_extension(REFUSED), room);
            let mut held = this.held();
            held.refused -= room;
            let entry = held.files.remove(&number);
            // A file that stays where it is goes on counting; the next life finds it there.
            held.refused += set_aside.map_err(|source| SpoolError { path, source })?;
            if let Some((_, bytes)) = entry {
                held.bytes = held.bytes.saturating_sub(bytes);
            }
            Ok(())
        })
        .await
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
    let bytes = tokio::fs::read(path).await.map_err(|error| {
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
    use super::super::without_answer;
    use super::*;

    fn settle(effect: &str, body: usize) -> v1::SettleRequest {
        let answer = v1::Answer {
            status: 201,
            headers: vec![v1::Header { name: "x-order".to_owned(), value: b"7".to_vec() }],
            digest: vec![9; 32],
            len: body as u64,
            stored: true,
            ..v1::Answer::default()
        };
        let completed = v1::Completed { answer: Some(answer), body: vec![7; body] };
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

    fn on_disk(folder: &tempfile::TempDir) -> u64 {
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[tokio::test]
    async fn outcomes_that_come_together_are_all_kept_and_their_answers_as_far_as_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Outcomes::open(folder.path()).unwrap());
        let settle = settle("eff", 8 * 1024 * 1024);
        // All were decided while there was room, and then the ledger went away.
        futures::future::try_join_all((0..20).map(|_| spool.settle(&settle))).await.unwrap();
        assert!(on_disk(&folder) <= BYTES_MAX, "{} bytes", on_disk(&folder));
        let held = spool.held();
        assert_eq!((held.files.len(), held.bytes), (20, on_disk(&folder)));
        let read = |(path, _): &(PathBuf, u64)| v1::SettleRequest::decode(fs::read(path).unwrap().as_slice()).unwrap();
        let (whole, bare): (Vec<_>, Vec<_>) = held.files.values().map(read).partition(|read| *read == settle);
        assert_eq!((whole.len(), bare.len()), (7, 13));
        let mut expect = without_answer(settle);
        assert_eq!(bare[0], expect);
        let Some(v1::settle_request::Outcome::Completed(completed)) = expect.outcome.take() else { unreachable!() };
        let answer = completed.answer.unwrap();
        assert_eq!((answer.status, answer.stored, answer.len, answer.digest), (201, false, 8 * 1024 * 1024, vec![9; 32]));
        assert!(completed.body.is_empty() && answer.headers.is_empty() && answer.trailers.is_empty());
    }

    #[tokio::test]
    async fn what_the_ledger_does_not_take_fills_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Outcomes::open(folder.path()).unwrap());
        for _ in 0..3 {
            spool.refused(&settle("eff", 3 * 1024 * 1024)).await.unwrap();
            spool.settle(&settle("eff", 3 * 1024 * 1024)).await.unwrap();
            let (number, path) = spool.held().files.first_key_value().map(|(number, (path, _))| (*number, path.clone())).unwrap();
            spool.set_aside(number, path).await.unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6);
        assert!(on_disk(&folder) <= REFUSED_MAX, "{} bytes", on_disk(&folder));
        assert_eq!(spool.held().refused, on_disk(&folder));
        assert_eq!(Outcomes::open(folder.path()).unwrap().held().refused, on_disk(&folder));
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
