//! What is wrong with a set of policies: which object, which field, where in its expression, and what to do.

use std::fmt;

use super::model::Origin;

/// The kind of object that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// ToolRegistration.
    Tool,
    /// Policy.
    Policy,
    /// RetryPolicy.
    RetryPolicy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tool => "ToolRegistration",
            Self::Policy => "Policy",
            Self::RetryPolicy => "RetryPolicy",
        })
    }
}

/// One thing that keeps a set from being used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {}/{}: {field}: {problem}", origin.namespace, origin.name)]
pub struct PolicyError {
    /// The object's kind.
    pub kind: Kind,
    /// The object.
    pub origin: Origin,
    /// The manifest's field, as in `spec.rules[0].when`.
    pub field: String,
    /// Line and column inside the expression, both from 1, for errors of CEL.
    pub at: Option<(u32, u32)>,
    /// What is wrong, and what to do about it.
    pub problem: String,
}

/// An expression of a registration that could not be evaluated for a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tool}: {field}: {problem}")]
pub struct ToolError {
    /// The registration.
    pub tool: String,
    /// The manifest's field.
    pub field: &'static str,
    /// What went wrong.
    pub problem: String,
}
