//! The driver of the rotation: reads the Secret, serves its leaf, publishes its authorities, steps, and writes the Secret by
//! compare-and-swap. Nothing is served or published that the Secret does not hold, so that replicas agree.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::material::{Kept, MaterialError};
use super::moment::Moment;
use super::rotation::{Lifetimes, Seen, Step, step};
use super::serving::Serving;
use crate::server::status::Status;
use crate::server::stored::{ClusterError, Stored, Written};

/// Rounds, at least: another replica may have written the Secret, and nobody watches that. A quarter of the grace time where that
/// is shorter.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// Rounds, at most, whatever changes and however often.
const ROUND_MIN: Duration = Duration::from_millis(50);
/// After a round that failed.
const RETRY: Duration = Duration::from_secs(2);
/// A round's questions to the API server; beyond it the API server counts as away. Half of the grace time where that is shorter: a
/// round that publishes what it read long ago must not undo what another replica has published and relies on since.
const PATIENCE: Duration = Duration::from_secs(20);

/// The Secret and the configurations. The API server is one, the tests' memory another.
pub(crate) trait Cluster: Send + Sync + 'static {
    /// Reads the Secret.
    fn read(&self) -> impl Future<Output = Result<Option<Stored>, ClusterError>> + Send;
    /// Writes the Secret where it still is as it was read.
    fn write(&self, bytes: &[u8], over: Option<&Stored>) -> impl Future<Output = Result<Written, ClusterError>> + Send;
    /// Makes every entry of the configurations hold this bundle; gives what each held before.
    fn publish(&self, bundle: &str) -> impl Future<Output = Result<Vec<String>, ClusterError>> + Send;
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoundError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Material(#[from] MaterialError),
    #[error("the API server does not answer in time")]
    Late,
}

/// Keeps the certificates.
pub(crate) struct Keeper<C> {
    pub(crate) cluster: C,
    pub(crate) lifetimes: Lifetimes,
    /// The name in the leaf.
    pub(crate) server_name: String,
    pub(crate) serving: Serving,
    pub(crate) status: Status,
    /// A configuration has changed.
    pub(crate) changed: Arc<Notify>,
    pub(crate) clock: fn() -> Moment,
}

/// What this replica knows.
#[derive(Default)]
struct Memory {
    kept: Option<Kept>,
    seen: Seen,
}

impl<C: Cluster> Keeper<C> {
    /// Rounds until `closing`.
    pub(crate) async fn run(self, closing: CancellationToken) {
        let mut memory = Memory::default();
        loop {
            let round = tokio::time::timeout(PATIENCE.min(self.lifetimes.grace / 2), self.round(&mut memory)).await;
            let pause = match round.unwrap_or(Err(RoundError::Late)) {
                Ok(wake) => {
                    self.status.kept(None);
                    wake.since((self.clock)()).min(ROUND_MAX.min(self.lifetimes.grace / 4))
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificates could not be kept; trying again");
                    self.status.kept(Some(error.to_string()));
                    RETRY.min(self.lifetimes.grace / 4)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause.max(ROUND_MIN)) => {}
                () = async { tokio::time::sleep(ROUND_MIN).await; self.changed.notified().await } => {}
                () = closing.cancelled() => return,
            }
        }
    }

    /// One round; gives when the next is due.
    async fn round(&self, memory: &mut Memory) -> Result<Moment, RoundError> {
        let stored = self.cluster.read().await?;
        let Some(kept) = usable(stored.as_ref(), memory) else {
            return self.begin(stored.as_ref(), memory).await;
        };
        if memory.kept.as_ref() != Some(&kept) {
            self.serve(&kept)?;
            memory.kept = Some(kept.clone());
        }
        // Where the configurations cannot be reached the leaf is renewed all the same.
        let published = self.publish(&kept, memory).await;
        let Step { state, actions, wake } = step(&kept.state, &memory.seen, (self.clock)(), &self.lifetimes);
        if !actions.is_empty() {
            tracing::info!(?actions, "the webhook's certificates change");
            self.write(&kept.apply(state, &actions, &self.server_name)?, stored.as_ref()).await?;
            published?;
            return Ok((self.clock)());
        }
        published?;
        Ok(wake)
    }

    /// Writes the first state, or, where somebody has spoilt the Secret, what this replica remembers.
    async fn begin(&self, stored: Option<&Stored>, memory: &Memory) -> Result<Moment, RoundError> {
        let kept = match memory.kept.clone() {
            Some(kept) => {
                tracing::warn!("the webhook's Secret is gone or spoilt; it is written again from memory");
                kept
            }
            None => {
                let Step { state, actions, .. } = step(&<_>::default(), &memory.seen, (self.clock)(), &self.lifetimes);
                Kept::default().apply(state, &actions, &self.server_name)?
            }
        };
        self.write(&kept, stored).await?;
        Ok((self.clock)())
    }

    async fn write(&self, kept: &Kept, over: Option<&Stored>) -> Result<(), RoundError> {
        match self.cluster.write(&kept.write()?, over).await? {
            Written::Done => {}
            Written::Conflict => tracing::debug!("another replica has written the Secret; reading it again"),
        }
        Ok(())
    }

    fn serve(&self, kept: &Kept) -> Result<(), RoundError> {
        if let Some((certified, leaf)) = kept.certified()?.zip(kept.state.leaf.as_ref()) {
            self.serving.serve(certified);
            self.status.serves_until(leaf.ends);
        }
        Ok(())
    }

    async fn publish(&self, kept: &Kept, memory: &mut Memory) -> Result<(), RoundError> {
        let bundle = kept.bundle();
        let before = self.cluster.publish(&bundle).await?;
        let mended = before.iter().filter(|found| **found != bundle).count();
        if mended > 0 {
            tracing::info!(entries = mended, "caBundle of the webhook configurations was mended");
            self.status.mended(mended);
        }
        let now = (self.clock)();
        memory.seen.observe(&kept.published_in(&before), now);
        memory.seen.observe(&kept.published_in(&[bundle]), now);
        self.status.published();
        Ok(())
    }
}

/// What the Secret holds, where it is ours.
fn usable(stored: Option<&Stored>, memory: &Memory) -> Option<Kept> {
    let stored = stored.filter(|stored| !stored.bytes.is_empty())?;
    // Checking keys costs; what is known needs no check.
    if let Some(known) = memory.kept.as_ref().filter(|known| known.write().is_ok_and(|bytes| bytes == stored.bytes)) {
        return Some(known.clone());
    }
    match Kept::read(&stored.bytes) {
        Ok(kept) => Some(kept),
        Err(error) => {
            tracing::error!(%error, "the webhook's Secret cannot be used");
            None
        }
    }
}
