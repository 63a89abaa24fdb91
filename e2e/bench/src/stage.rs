//! What stands during a run: the far side, both baselines, and the product.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::governed::Governed;
use crate::load::Way;
use crate::process::Process;
use crate::tls;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The far side in plain text.
    pub(crate) far: SocketAddr,
    /// The far side over TLS.
    pub(crate) far_tls: SocketAddr,
    pub(crate) forward: Process,
    pub(crate) intercept: Process,
    pub(crate) governed: Governed,
    forward_at: SocketAddr,
    intercept_at: SocketAddr,
    baseline_tls: Arc<ClientConfig>,
    governed_tls: Arc<ClientConfig>,
    /// On the disk that the ledger writes to.
    pub(crate) dir: PathBuf,
    _upstream: Process,
    _folder: TempDir,
}

impl Stage {
    pub(crate) async fn set(kybernis: &Path, data: Option<&Path>) -> Result<Self> {
        let folder = folder(data)?;
        let dir = folder.path().to_owned();
        tls::create(&dir)?;
        let at = dir.to_string_lossy().into_owned();
        let (upstream, far) = Process::role(&["upstream", "--dir", &at]).await?;
        let (forward, forward_at) = Process::role(&["forward"]).await?;
        let (intercept, intercept_at) = Process::role(&["intercept", "--dir", &at]).await?;
        let [far, far_tls] = far.try_into().ok().context("the far side has two doors")?;
        let ca = dir.join(tls::CA);
        let governed = Governed::start(kybernis, &dir, far, &ca).await?;
        let offered: [&[u8]; 1] = [b"http/1.1"];
        Ok(Self {
            far,
            far_tls,
            forward,
            intercept,
            forward_at: forward_at[0],
            intercept_at: intercept_at[0],
            baseline_tls: tls::client(&ca, &offered)?,
            governed_tls: tls::client(&governed.bundle, &offered)?,
            governed,
            dir,
            _upstream: upstream,
            _folder: folder,
        })
    }

    pub(crate) const fn by_forward(&self) -> Way {
        Way::Proxy(self.forward_at)
    }

    pub(crate) fn by_intercept(&self) -> Way {
        Way::Tunnel(self.intercept_at, Arc::clone(&self.baseline_tls))
    }

    pub(crate) const fn by_sidecar(&self) -> Way {
        Way::Proxy(self.governed.proxy)
    }

    pub(crate) fn by_sidecar_over_tls(&self) -> Way {
        Way::Tunnel(self.governed.proxy, Arc::clone(&self.governed_tls))
    }

    /// Ends the product in an orderly way; the rest is killed.
    pub(crate) async fn clear(self) -> Result<()> {
        self.governed.stop().await
    }
}

/// A folder for the run's data, on the disk of `data` or of the working directory.
pub(crate) fn folder(data: Option<&Path>) -> Result<TempDir> {
    let parent = data.map_or_else(std::env::current_dir, |data| Ok(data.to_owned()))?;
    tempfile::Builder::new().prefix("kybernis-bench-").tempdir_in(&parent).context("the folder for the run's data")
}
