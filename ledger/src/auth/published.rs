//! What others publish in the cluster and the ledger goes by: looked at when it is wanted, again when it does not serve, kept while
//! nobody can be asked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

/// Between two looks: whoever comes with what nobody knows must not keep the API server busy.
pub(crate) const APART: Duration = Duration::from_secs(3);
/// How long it is gone by before it is looked at again: what was taken back counts no longer than this.
pub(crate) const FRESH: Duration = Duration::from_secs(300);
/// One look; beyond it the API server counts as away.
const PATIENCE: Duration = Duration::from_secs(10);

/// A look at what is published.
type Fetch<T> = Box<dyn Fn() -> BoxFuture<'static, Result<T, String>> + Send + Sync>;

/// It cannot be looked at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is published in the cluster cannot be read now")]
pub(crate) struct Away;

/// Something published, as it was last seen.
pub(crate) struct Published<T> {
    what: &'static str,
    fetch: Fetch<T>,
    known: Mutex<Known<T>>,
    /// One looks for all.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known<T> {
    value: T,
    last: Option<Look>,
}

#[derive(Clone, Copy)]
struct Look {
    begun: Instant,
    came_back: bool,
}

impl<T> std::fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Published").field(&self.what).finish()
    }
}

impl<T: Clone + Default> Published<T> {
    /// What `fetch` finds; until it has found something, the default.
    pub(crate) fn new<F>(what: &'static str, fetch: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        Self { what, fetch: Box::new(move || Box::pin(fetch())), known: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// As it was last seen, and looked at again where that was long ago and it can be.
    pub(crate) async fn recent(&self) -> T {
        let asked = Instant::now();
        let is_old = self.known().last.is_none_or(|last| last.begun.elapsed() > FRESH);
        if is_old {
            // What was seen before holds while nothing can be seen.
            let _ = self.look(asked).await;
        }
        self.known().value.clone()
    }

    /// As a look finds it that began after `asked`, one's own or another's.
    pub(crate) async fn since(&self, asked: Instant) -> Result<T, Away> {
        self.look(asked).await?;
        Ok(self.known().value.clone())
    }

    async fn look(&self, asked: Instant) -> Result<(), Away> {
        let _turn = self.turn.lock().await;
        let last = self.known().last;
        match last {
            Some(last) if last.begun >= asked => return if last.came_back { Ok(()) } else { Err(Away) },
            Some(last) => sleep_until(last.begun + APART).await,
            None => {}
        }
        let begun = Instant::now();
        // Noted ahead, so that one whose asker goes away counts too.
        self.known().last = Some(Look { begun, came_back: false });
        let fetched = timeout(PATIENCE, (self.fetch)()).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        match fetched {
            Ok(value) => {
                *self.known() = Known { value, last: Some(Look { begun, came_back: true }) };
                Ok(())
            }
            Err(reason) => {
                tracing::warn!(reason, what = self.what, "what is published in the cluster cannot be read");
                Err(Away)
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known<T>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
