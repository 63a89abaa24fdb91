//! How a pod's connections are caught.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a pod's connections are caught, from the weakest to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Capture {
    /// By environment variables, for clients that honour them; needs no privilege.
    Cooperative,
    /// By the kernel as well; an init container with NET_ADMIN sets it up.
    Redirect,
    /// Redirect, and no other container has the means to undo it.
    Strict,
}

impl Capture {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Cooperative, Self::Redirect, Self::Strict];

    /// As people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cooperative => "Cooperative",
            Self::Redirect => "Redirect",
            Self::Strict => "Strict",
        }
    }

    /// As receipts, and so the sidecar's setting, spell it.
    pub(crate) const fn on_receipts(self) -> &'static str {
        match self {
            Self::Cooperative => "cooperative",
            Self::Redirect => "redirect",
            Self::Strict => "strict",
        }
    }

    /// Whether the kernel is told to redirect.
    pub(crate) const fn redirects(self) -> bool {
        match self {
            Self::Cooperative => false,
            Self::Redirect | Self::Strict => true,
        }
    }

    /// The mode of this name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text)
    }
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
