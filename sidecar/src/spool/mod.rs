//! What the ledger has still to be told, on disk: outcomes that must not be lost, and spans.
//!
//! Outcomes (Settle, Abandon) are one file each, fsynced before anything is built on them; a later life of the sidecar
//! delivers what an earlier one left. Spans are an append-only log for each boot, kept until they are acknowledged.

mod claims;
mod outcomes;
pub(crate) mod spans;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kybernis_core::ids::BootId;
use kybernis_proto::v1;
use prost::Message as _;

pub use self::claims::{Adoption, ClaimError, Claims};
pub use self::outcomes::Outcomes;
pub use self::spans::{Kind, Spans};
use crate::control::Control;

/// Of each bound on outcomes, what their answers leave free: an outcome without its answer comes to a few hundred bytes and is
/// never dropped, and this is room for ten thousand of them.
const BARE_ROOM: u64 = 4 * 1024 * 1024;
/// Answers of outcomes that the ledger does not take: one of the largest, or several. They stay until somebody has looked, so they
/// must not fill the spool.
const REFUSED_MAX: u64 = 12 * 1024 * 1024;

/// How the name of a file that is being written ends.
const PARTIAL: &str = ".partial";

/// How often a stopping sidecar looks whether the ledger has taken everything.
const EMPTY_LOOK: Duration = Duration::from_millis(10);

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the spool {path}: {source}")]
pub struct SpoolError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Both parts.
#[derive(Clone, Debug)]
pub struct Spool {
    /// Settle and Abandon.
    pub outcomes: Arc<Outcomes>,
    /// What was claimed without the ledger.
    pub claims: Arc<Claims>,
    /// SPAN_START and SPAN_END.
    pub spans: Arc<Spans>,
}

impl Spool {
    /// Opens the spool in `folder`, made where it is not there.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(folder: &Path, boot: &BootId) -> Result<Self, SpoolError> {
        // Answers lie here as the far side gave them.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| SpoolError { path: folder.into(), source })?;
        remove_drafts(folder)?;
        let outcomes = Arc::new(Outcomes::open(folder)?);
        let claims = Arc::new(Claims::open(folder)?);
        let spans = Arc::new(Spans::open(folder, boot)?);
        Ok(Self { outcomes, claims, spans })
    }

    /// Delivers, for as long as the process lives. What becomes of each claim is told to `adopted`.
    pub fn deliver(&self, control: &Control, adopted: impl Fn(Adoption) + Send + Sync + 'static) {
        tokio::spawn(Arc::clone(&self.outcomes).deliver(control.clone()));
        tokio::spawn(Arc::clone(&self.claims).deliver(control.clone(), Arc::clone(&self.outcomes), adopted));
        tokio::spawn(Arc::clone(&self.spans).deliver(control.clone()));
    }

    /// Whether the ledger has taken everything.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty() && self.claims.is_empty() && self.spans.is_empty()
    }

    /// Waits until it has.
    pub(crate) async fn empty(&self) {
        let mut looks = tokio::time::interval(EMPTY_LOOK);
        while !self.is_empty() {
            looks.tick().await;
        }
    }
}

/// An outcome for the disk. Where it does not fit into `room` it goes without its answer: a repeat is then told status and digest.
fn encode_within(room: u64, settle: &v1::SettleRequest) -> Vec<u8> {
    if settle.encoded_len() as u64 <= room { settle.encode_to_vec() } else { without_answer(settle.clone()).encode_to_vec() }
}

fn without_answer(mut settle: v1::SettleRequest) -> v1::SettleRequest {
    if let Some(v1::settle_request::Outcome::Completed(completed)) = &mut settle.outcome {
        completed.body = Vec::new();
        if let Some(answer) = &mut completed.answer {
            answer.stored = false;
            (answer.headers, answer.trailers) = (Vec::new(), Vec::new());
        }
    }
    settle
}

/// Renames the file of an outcome that the ledger does not take, less the answer where that does not fit into `room`. How long
/// the file is then.
fn set_aside(path: &Path, to: &Path, room: u64) -> io::Result<u64> {
    let bytes = fs::metadata(path)?.len();
    if bytes > room
        // What cannot be read is kept as it is: that may be why it was refused.
        && let Ok(settle) = v1::SettleRequest::decode(fs::read(path)?.as_slice())
    {
        let bare = without_answer(settle).encode_to_vec();
        write_durably(to, &bare).map_err(|error| error.source)?;
        fs::remove_file(path)?;
        return Ok(bare.len() as u64);
    }
    fs::rename(path, to)?;
    Ok(bytes)
}

/// Writes a file that is either whole or not there, whatever happens; it is on disk when this returns.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(PARTIAL);
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|source| SpoolError { path: path.into(), source })
}

/// Removes drafts that never became files: nothing was built on them.
fn remove_drafts(folder: &Path) -> Result<(), SpoolError> {
    let failed = |source| SpoolError { path: folder.into(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.as_os_str().as_encoded_bytes().ends_with(PARTIAL.as_bytes()) {
            fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}
