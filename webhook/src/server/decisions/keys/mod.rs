//! The key by which admission signs, and those by which signatures are believed. A key lives in a Secret that replicas share; whoever
//! deletes it rotates: the next round makes another one, and the public keys of before stay published, so that what was signed before
//! is still believed.

pub(crate) mod keeper;
pub(crate) mod material;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use kybernis_core::word::{PublicKeys, Signer};
use tokio::time::Instant;

use crate::server::review::{Reason, Refused};

/// How long a key is used that has not been looked at again: for so long at most a deleted one goes on signing, here and there. Three
/// rounds, so that one that fails keeps nobody from deciding.
const FRESH: Duration = Duration::from_secs(30);

/// A key that is in the Secret, and published.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) signer: Signer,
    /// This one and those of before.
    pub(crate) keys: PublicKeys,
    /// When it was looked at.
    pub(crate) seen: Instant,
}

/// What is signed with now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signing(Arc<State>);

#[derive(Debug, Default)]
struct State {
    held: ArcSwapOption<Held>,
    problem: ArcSwapOption<String>,
}

impl Signing {
    /// Signs with this from now on.
    pub(crate) fn hold(&self, held: Held) {
        self.0.held.store(Some(Arc::new(held)));
        self.0.problem.store(None);
    }

    /// It could not be looked at.
    pub(crate) fn failed(&self, problem: String) {
        self.0.problem.store(Some(Arc::new(problem)));
    }

    /// Whether decisions can be signed.
    pub(crate) fn is_ready(&self) -> bool {
        self.held().is_ok()
    }

    /// The key, where it has been seen lately.
    pub(crate) fn held(&self) -> Result<Arc<Held>, Refused> {
        let why = || self.0.problem.load().as_deref().map_or_else(String::new, |problem| format!(": {problem}"));
        let missing = |what: &str| {
            let message = format!("{what}{}. Nothing is decided without it; try again", why());
            Err(Refused::new(Reason::Unavailable, message))
        };
        match self.0.held.load_full() {
            Some(held) if held.seen.elapsed() <= FRESH => Ok(held),
            Some(_) => missing(&format!("the key that signs decisions has not been seen for {} s", FRESH.as_secs())),
            None => missing("there is no key yet that signs decisions"),
        }
    }
}
