//! Why a condition stands as it does: the closed list of words that people and tools read in `reason`.

use kybernis_crds::{Fault as Word, ManifestError};

/// A condition's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The object holds.
    Accepted,
    /// A value breaks a rule.
    Invalid,
    /// It and another object exclude each other.
    Conflict,
    /// A later release will take it.
    NotYetSupported,
    /// A Secret or its key is not there.
    SecretNotFound,
    /// A Secret cannot be read.
    SecretUnreadable,
    /// Every live sidecar that it selects runs with it.
    Programmed,
    /// No live sidecar is selected.
    NoSidecars,
    /// The ledger or a sidecar has not taken it yet.
    Pending,
    /// Another object keeps it from being in force.
    HeldBack,
    /// It does not hold itself.
    NotAccepted,
    /// The ledger does not take the set.
    Refused,
    /// Both of the others.
    Ready,
}

impl Reason {
    /// As it stands in the condition.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Invalid => "Invalid",
            Self::Conflict => "Conflict",
            Self::NotYetSupported => "NotYetSupported",
            Self::SecretNotFound => "SecretNotFound",
            Self::SecretUnreadable => "SecretUnreadable",
            Self::Programmed => "Programmed",
            Self::NoSidecars => "NoSidecars",
            Self::Pending => "Pending",
            Self::HeldBack => "HeldBack",
            Self::NotAccepted => "NotAccepted",
            Self::Refused => "Refused",
            Self::Ready => "Ready",
        }
    }
}

/// Why an object is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    /// Names field, rule and what to do.
    pub(crate) message: String,
}

/// Errors of one object that are told one by one; who mends them sees the rest next.
const TOLD: usize = 5;

impl Fault {
    /// All errors of one object; the gravest says the reason.
    pub(crate) fn of(errors: &[&ManifestError]) -> Self {
        let gravest = errors.iter().map(|error| error.fault()).min().unwrap_or(Word::Invalid);
        let reason = match gravest {
            Word::Invalid => Reason::Invalid,
            Word::Conflict => Reason::Conflict,
            Word::NotYetSupported => Reason::NotYetSupported,
        };
        let mut lines: Vec<String> = errors.iter().take(TOLD).map(|error| line(error)).collect();
        if let Some(more) = errors.len().checked_sub(TOLD).filter(|more| *more > 0) {
            lines.push(format!("And {more} more."));
        }
        Self { reason, message: lines.join(" ") }
    }
}

fn line(error: &ManifestError) -> String {
    let place = match (error.line, error.column) {
        (Some(line), Some(column)) => format!(" (line {line}, column {column})"),
        (None, _) | (_, None) => String::new(),
    };
    let field = if error.field.is_empty() { String::new() } else { format!("{}{place}: ", error.field) };
    format!("{field}{}. {}.", error.rule, error.advice)
}
