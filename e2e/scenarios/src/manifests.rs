//! What is known of the far side: the manifest sets of the matrix.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A set of manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manifests {
    /// No manifests at all: an unchanged program against an unknown far side.
    None,
    /// Which calls mean the same order.
    Key,
    /// And how the broker can be asked about one.
    Probe,
    /// And the broker's own idempotency header, with a RetryPolicy.
    FarSideKey,
}

impl Manifests {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Key, Self::Probe, Self::FarSideKey];

    /// As tables and filters name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Key => "key",
            Self::Probe => "probe",
            Self::FarSideKey => "far side",
        }
    }

    const fn file(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Key => Some("key.yaml"),
            Self::Probe => Some("probe.yaml"),
            Self::FarSideKey => Some("far_side.yaml"),
        }
    }

    /// Whether the broker is told to honour idempotency keys.
    pub const fn broker_honours_keys(self) -> bool {
        matches!(self, Self::FarSideKey)
    }

    /// Writes the set into a folder of its own for a broker at `port`; no folder where there is nothing to write.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write(self, folder: &Path, port: u16) -> Result<Option<PathBuf>> {
        let Some(file) = self.file() else { return Ok(None) };
        fs::create_dir_all(folder)?;
        fs::write(folder.join(file), read(file)?.replace("PORT", &port.to_string()))?;
        Ok(Some(folder.to_owned()))
    }

    /// The set's text for brokers by another name, at whatever port an order goes to.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn text(self, host: &str) -> Result<Option<String>> {
        let Some(file) = self.file() else { return Ok(None) };
        Ok(Some(read(file)?.replace("localhost", host).replace("PORT", r#"" + string(request.port) + ""#)))
    }
}

fn read(file: &str) -> Result<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests").join(file);
    fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))
}
