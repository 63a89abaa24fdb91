//! What was looked for in a cluster: there, not there, or not for these eyes. Whoever asks may read little, and is told what they may
//! not, rather than nothing at all.

use super::error::told;

/// What was looked for.
#[derive(Clone, Debug)]
pub(super) enum Seen<T> {
    /// It is there.
    Found(T),
    /// It is not.
    Absent,
    /// The API server does not show it; what it said.
    Hidden(String),
}

impl<T> Seen<T> {
    /// Sorts an answer; what is neither, a connection that fails say, goes on as an error.
    pub(super) fn of(answer: kube::Result<T>) -> kube::Result<Self> {
        match answer {
            Ok(found) => Ok(Self::Found(found)),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Self::Absent),
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                let said = anyhow::Error::from(kube::Error::Api(status));
                Ok(Self::Hidden(told(&said, "")))
            }
            Err(error) => Err(error),
        }
    }

    /// What is there.
    pub(super) fn found(&self) -> Option<&T> {
        match self {
            Self::Found(found) => Some(found),
            Self::Absent | Self::Hidden(_) => None,
        }
    }

    /// What was said where it is not shown.
    pub(super) fn hidden(&self) -> Option<&str> {
        match self {
            Self::Hidden(said) => Some(said),
            Self::Found(_) | Self::Absent => None,
        }
    }
}
