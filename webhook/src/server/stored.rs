//! What replicas share at the API server: bytes under a version, written only over what was read.

/// Why the cluster has not done what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub(crate) struct ClusterError {
    pub(crate) what: String,
    pub(crate) why: String,
}

/// What an object holds, and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored<T = Vec<u8>> {
    /// Nothing where the object is there without ours.
    pub(crate) bytes: T,
    pub(crate) version: String,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// Somebody else has written it since it was read.
    Conflict,
}
