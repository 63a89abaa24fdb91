//! Who is told that something changed: each loop has a bell of its own, and rings of one do not look at what concerns another.

use std::sync::Arc;

use tokio::sync::Notify;

/// The loops' bells. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wakes {
    /// Policies and who runs with them.
    pub(crate) policies: Arc<Notify>,
    /// Gates and their objects.
    pub(crate) gates: Arc<Notify>,
    /// People's words on gates.
    pub(crate) decisions: Arc<Notify>,
}

impl Wakes {
    /// Something changed for everybody.
    pub(crate) fn all(&self) {
        self.policies.notify_one();
        self.gates();
    }

    /// The gates changed, which the words are about.
    pub(crate) fn gates(&self) {
        self.gates.notify_one();
        self.decisions.notify_one();
    }
}
