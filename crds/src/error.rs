//! What is wrong with a manifest: file, line, field, rule, and what to do.

use std::fmt;

use crate::later::NOT_YET;
use crate::yaml::Position;

/// One thing that keeps a folder of manifests from being used, or, as a warning, one that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct ManifestError {
    /// The file, as it was named to the loader.
    pub file: String,
    /// The line, from 1; `None` where the whole file or folder is meant.
    pub line: Option<usize>,
    /// The column, from 1, where the place inside an expression is known.
    pub column: Option<usize>,
    /// The field, as in `spec.rules[0].when`; empty where the whole document or file is meant.
    pub field: String,
    /// Which rule the value breaks.
    pub rule: String,
    /// What to do about it.
    pub advice: String,
}

/// In which way an object does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A value breaks a rule.
    Invalid,
    /// It says the same as another object, and neither is the more specific.
    Conflict,
    /// A later release will take it.
    NotYetSupported,
}

/// How core words a tie between two registrations.
const CONFLICT: &str = "conflicts with ";

impl ManifestError {
    /// In which way the object does not hold.
    pub fn fault(&self) -> Fault {
        if self.rule.starts_with(CONFLICT) {
            Fault::Conflict
        } else if self.rule.contains(NOT_YET) {
            Fault::NotYetSupported
        } else {
            Fault::Invalid
        }
    }

    /// An error at a place in a file. `problem` says the rule and then, as its last sentence, what to do.
    pub(crate) fn new(file: &str, at: Option<Position>, field: &str, problem: &str) -> Self {
        let (rule, advice) = problem.rsplit_once(". ").unwrap_or((problem, "Correct it"));
        Self {
            file: file.to_owned(),
            line: at.map(|at| at.line),
            column: None,
            field: field.to_owned(),
            rule: rule.to_owned(),
            advice: advice.to_owned(),
        }
    }

    /// The same, with the exact column.
    pub(crate) fn at_column(mut self, at: Position) -> Self {
        (self.line, self.column) = (Some(at.line), Some(at.column));
        self
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        f.write_str(": ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}. {}.", self.rule, self.advice)
    }
}
