//! What a pass over a pod has to say: faults that refuse it, warnings that `kubectl` prints, and what was added.

use std::fmt;

use crate::path::FieldPath;

/// As many faults as one message shows: `kubectl` prints it whole, a ReplicaSet's condition and Event repeat it. How many
/// more there are is said.
const SHOWN_MAX: usize = 25;
/// As many names as one sentence lists; how many more there are is said.
const NAMED_MAX: usize = 5;

/// One reason why a pod is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field that is wrong.
    pub path: FieldPath,
    /// Which rule it breaks; a clause without a full stop.
    pub rule: String,
    /// What to do about it; a sentence without a full stop.
    pub advice: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}.", self.path, self.rule, self.advice)
    }
}

/// Why a pod is refused: everything that is wrong with it, never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    faults: Vec<Fault>,
}

impl Refusal {
    /// All of the faults; the message shows at most 25 of them.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

/// One fault is one line; several are a list.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [fault] = self.faults.as_slice() {
            return write!(f, "{fault}");
        }
        write!(f, "{} things are wrong:", self.faults.len())?;
        for fault in self.faults.iter().take(SHOWN_MAX) {
            write!(f, "\n- {fault}")?;
        }
        match self.faults.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n- and {more} more, which show once these are mended."),
        }
    }
}

/// Something that an injected pod must have and this one had not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addition {
    /// The object or list that lacked it.
    pub(crate) path: FieldPath,
    /// Its name.
    pub(crate) what: String,
}

/// What a pass has found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) faults: Vec<Fault>,
    pub(crate) warnings: Vec<String>,
    pub(crate) additions: Vec<Addition>,
}

impl Findings {
    pub(crate) fn fault(&mut self, path: FieldPath, rule: impl Into<String>, advice: impl Into<String>) {
        self.faults.push(Fault { path, rule: rule.into(), advice: advice.into() });
    }

    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    pub(crate) fn added(&mut self, path: FieldPath, what: impl Into<String>) {
        self.additions.push(Addition { path, what: what.into() });
    }

    /// The refusal, where there is a reason for one.
    pub(crate) fn settle(self) -> Result<Self, Refusal> {
        if self.faults.is_empty() { Ok(self) } else { Err(self.refuse()) }
    }

    /// The refusal, by whoever knows that there is a reason.
    pub(crate) fn refuse(self) -> Refusal {
        Refusal { faults: self.faults }
    }
}

/// `a`, `a and b`, `a, b, c, d, e and 195 more`.
pub(crate) fn named<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match names.as_slice() {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [most @ .., last] if names.len() <= NAMED_MAX => format!("{} and {last}", most.join(", ")),
        all => format!("{} and {} more", all[..NAMED_MAX].join(", "), all.len() - NAMED_MAX),
    }
}
