//! The kinds that the operator reads, and where they differ: a file each.

pub(crate) mod budget;
pub(crate) mod policy;
pub(crate) mod tool;

use std::fmt;

use kube::core::ApiResource;
use kybernis_crds::kinds::{Budget, Policy, RetryPolicy, ToolRegistration};

/// A kind that people write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Tool,
    Policy,
    RetryPolicy,
    Budget,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Tool, Self::Policy, Self::RetryPolicy, Self::Budget];

    /// Its name in manifests.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tool => "ToolRegistration",
            Self::Policy => "Policy",
            Self::RetryPolicy => "RetryPolicy",
            Self::Budget => "Budget",
        }
    }

    /// Where the API server has it.
    pub(crate) fn resource(self) -> ApiResource {
        match self {
            Self::Tool => ApiResource::erase::<ToolRegistration>(&()),
            Self::Policy => ApiResource::erase::<Policy>(&()),
            Self::RetryPolicy => ApiResource::erase::<RetryPolicy>(&()),
            Self::Budget => ApiResource::erase::<Budget>(&()),
        }
    }

    /// Whether its objects become part of a PolicySet. What does not can hold nobody back.
    pub(crate) const fn is_lowered(self) -> bool {
        match self {
            Self::Tool | Self::Policy | Self::RetryPolicy => true,
            Self::Budget => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
