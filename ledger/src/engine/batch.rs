//! What is asked of the writer, and how each ask is answered once its events are durable.

use kybernis_core::ids::{AgentId, BootId};
use kybernis_core::machine::{Command, Reply, State};
use tokio::sync::oneshot;

use super::index::Index;
use super::waiting::Waiting;
use crate::journal::Blob;

/// A look at the committed state.
pub(super) type Look = Box<dyn FnOnce(&State, &Index) + Send>;

/// One thing asked of the writer.
pub(super) enum Ask {
    /// A Decide, which may wait.
    Decide(Box<Waiting>),
    /// A command that is answered at once.
    Command {
        /// The agent under whose grants it speaks. `None` where something else binds it: a boot, which is one agent's own, a
        /// person, a run, or the ledger itself.
        by: Option<AgentId>,
        command: Command,
        blobs: Vec<Blob>,
        answer: Answer,
    },
    /// A look at the committed state.
    Read(Look),
    /// A sidecar came into touch, or went out of it.
    Presence { boot: BootId, present: bool },
}

impl Ask {
    pub(super) fn decide(waiting: Waiting) -> Self {
        Self::Decide(Box::new(waiting))
    }
}

/// Where a command's reply goes; nowhere for the writer's own.
pub(super) struct Answer(Option<oneshot::Sender<Reply>>);

impl Answer {
    pub(super) const fn new(sender: oneshot::Sender<Reply>) -> Self {
        Self(Some(sender))
    }

    pub(super) const fn nobody() -> Self {
        Self(None)
    }

    pub(super) fn send(self, reply: Reply) {
        if let Some(sender) = self.0 {
            // A caller that went away asks again and gets the same answer.
            let _ = sender.send(reply);
        }
    }
}
