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

pub use self::claims::{Adoption, ClaimError, Claims};
pub use self::outcomes::Outcomes;
pub use self::spans::{Kind, Spans};
use crate::control::Control;

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
