//! Reading single fields: names, digests, enums.

use kybernis_core::ids::NameError;

/// A message that breaks a rule of the service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct Invalid {
    /// The field's path.
    pub field: &'static str,
    /// What it must be.
    pub rule: String,
}

impl Invalid {
    pub(crate) fn new(field: &'static str, rule: impl Into<String>) -> Self {
        Self { field, rule: rule.into() }
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

pub(crate) fn name<T>(field: &'static str, text: &str, new: fn(&str) -> Result<T, NameError>) -> Result<T, Invalid> {
    new(text).map_err(|error| Invalid::new(field, error.to_string()))
}

/// A name where the empty text means "none".
pub(crate) fn some_name<T>(field: &'static str, text: &str, new: fn(&str) -> Result<T, NameError>) -> Result<Option<T>, Invalid> {
    if text.is_empty() { Ok(None) } else { name(field, text, new).map(Some) }
}

pub(crate) fn bytes32(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], Invalid> {
    bytes.try_into().map_err(|_| Invalid::new(field, format!("has {} bytes; give 32", bytes.len())))
}

pub(crate) fn text(field: &'static str, text: String, max: usize) -> Result<String, Invalid> {
    if text.len() > max { Err(Invalid::new(field, format!("has {} bytes; at most {max} are allowed", text.len()))) } else { Ok(text) }
}

pub(crate) fn present<T>(field: &'static str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}
