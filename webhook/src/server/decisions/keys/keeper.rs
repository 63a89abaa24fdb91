//! The driver of the key: reads the Secret, fills it where it is empty, publishes the public key, and only then lets it sign. Writes
//! are compare-and-swap, so that replicas agree on one key: whoever loses reads again.

use std::future::Future;
use std::time::Duration;

use kybernis_core::word::Signer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::material::{Entries, NoEntropy, entry, public_keys, seed, signer};
use super::{Held, Signing};
use crate::server::stored::{ClusterError, Stored, Written};

/// Between two looks: whoever deletes a key waits as long for another one.
const ROUND: Duration = Duration::from_secs(10);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(2);
/// For a round's questions to the API server; beyond it the API server counts as away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Turns of one round against others who write at the same time; the next round tries again.
const TURNS: usize = 8;

/// The Secret and the ConfigMap. The API server is one, the tests' memory another.
pub(crate) trait KeyStore: Send + Sync + 'static {
    /// Reads the Secret.
    fn seed(&self) -> impl Future<Output = Result<Option<Stored>, ClusterError>> + Send;
    /// Writes the Secret where it still is as it was read.
    fn write_seed(&self, seed: &[u8], over: Option<&Stored>) -> impl Future<Output = Result<Written, ClusterError>> + Send;
    /// Reads the ConfigMap.
    fn published(&self) -> impl Future<Output = Result<Option<Stored<Entries>>, ClusterError>> + Send;
    /// Writes the ConfigMap where it still is as it was read.
    fn publish(&self, entries: &Entries, over: Option<&Stored<Entries>>) -> impl Future<Output = Result<Written, ClusterError>> + Send;
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    #[error("the API server does not answer in time")]
    Late,
    #[error("somebody else writes the key all the time")]
    Contended,
}

/// Keeps the key.
pub(crate) struct KeyKeeper<K> {
    pub(crate) store: K,
    pub(crate) signing: Signing,
}

impl<K: KeyStore> KeyKeeper<K> {
    /// Rounds until `closing`.
    pub(crate) async fn run(self, closing: CancellationToken) {
        loop {
            let round = tokio::time::timeout(PATIENCE, self.round()).await.unwrap_or(Err(RoundError::Late));
            let pause = match round {
                Ok(()) => ROUND,
                Err(error) => {
                    tracing::warn!(%error, "the key that signs decisions could not be kept; trying again");
                    self.signing.failed(error.to_string());
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = closing.cancelled() => return,
            }
        }
    }

    async fn round(&self) -> Result<(), RoundError> {
        for _ in 0..TURNS {
            // Before it is read: what is read may be older than its answer.
            let seen = Instant::now();
            let stored = self.store.seed().await?;
            let Some(signer) = stored.as_ref().and_then(|stored| signer(&stored.bytes)) else {
                self.begin(stored.as_ref()).await?;
                continue;
            };
            if let Some(entries) = self.published(&signer).await? {
                self.signing.hold(Held { signer, keys: public_keys(&entries), seen });
                return Ok(());
            }
        }
        Err(RoundError::Contended)
    }

    /// Fills the Secret; the next turn reads what it holds, ours or another replica's.
    async fn begin(&self, stored: Option<&Stored>) -> Result<(), RoundError> {
        if stored.is_some_and(|stored| !stored.bytes.is_empty()) {
            tracing::error!("the Secret of the key that signs decisions holds no seed; a new one is written");
        }
        match self.store.write_seed(&seed()?, stored).await? {
            Written::Done => tracing::info!("a new key signs decisions"),
            Written::Conflict => tracing::debug!("another replica has written the key; reading it again"),
        }
        Ok(())
    }

    /// What is published, this signer's key with it; nothing where another turn must tell. Keys of before are left there: what they
    /// signed is still believed. One that somebody has taken away, because it leaked say, is not brought back, unless it signs still.
    async fn published(&self, signer: &Signer) -> Result<Option<Entries>, RoundError> {
        let stored = self.store.published().await?;
        let mut entries = stored.as_ref().map(|stored| stored.bytes.clone()).unwrap_or_default();
        let (name, key) = entry(signer);
        if entries.get(&name) == Some(&key) {
            return Ok(Some(entries));
        }
        entries.insert(name, key);
        self.store.publish(&entries, stored.as_ref()).await?;
        // Whatever became of it, the next turn sees it.
        Ok(None)
    }
}
