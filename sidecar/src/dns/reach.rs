//! A resolver that asks only for names that policy could let a call go to: under `default: Deny` a look-up, too, would carry what
//! an agent puts into a name.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use kybernis_core::policy::Host;

use crate::resolve::{Resolve, ResolveError, Resolved};

/// How long a question waits for the first policy, as calls do for a ledger that is away. The DNS responder gives up sooner.
const HOLD: Duration = Duration::from_secs(10);

/// Whether a call to this host could be allowed, as soon as there is a policy that says it.
pub(crate) type MayReach = Arc<dyn Fn(Host) -> BoxFuture<'static, bool> + Send + Sync>;

/// See the module's description.
pub(crate) struct WithinReach {
    inner: Arc<dyn Resolve>,
    may_reach: MayReach,
}

impl fmt::Debug for WithinReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithinReach").finish_non_exhaustive()
    }
}

impl WithinReach {
    pub(crate) fn new(inner: Arc<dyn Resolve>, may_reach: MayReach) -> Self {
        Self { inner, may_reach }
    }
}

impl Resolve for WithinReach {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        async move {
            // RFC 6761, 6.3: no server is asked for these.
            if name == "localhost" || name.ends_with(".localhost") {
                return self.inner.resolve(name).await;
            }
            // A name that policy cannot spell is one that no rule names, as this one is (RFC 6761, 6.4).
            let reached = match Host::new(name).or_else(|_| Host::new("unnamed.invalid")) {
                Ok(host) => tokio::time::timeout(HOLD, (self.may_reach)(host)).await,
                Err(_) => Ok(false),
            };
            match reached {
                Ok(true) => self.inner.resolve(name).await,
                Ok(false) => {
                    tracing::warn!(name, "a name was not looked up: no rule of the policy in force could allow a call to it");
                    Err(ResolveError::OutOfReach { name: name.into() })
                }
                Err(_) => Err(ResolveError::Failed { name: name.into(), source: io::ErrorKind::TimedOut.into() }),
            }
        }
        .boxed()
    }
}
