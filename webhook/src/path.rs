//! Where in a pod something stands, written as the API server writes it, so that a reader finds it in the manifest.

use std::fmt;

/// A place in a pod, as in `spec.containers[2].env[0]` or `metadata.annotations[kybernis.io/inject]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(String);

impl FieldPath {
    /// The pod as a whole.
    pub(crate) fn pod() -> Self {
        Self(String::new())
    }

    /// A member of an object at the top.
    pub(crate) fn top(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A member of the object that stands here.
    pub(crate) fn member(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::top(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An item of the list that stands here.
    pub(crate) fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }

    /// A member whose name is data, or an item of a list that is named rather than counted.
    pub(crate) fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// A pod's annotation.
    pub(crate) fn annotation(name: &str) -> Self {
        Self::top("metadata").member("annotations").key(name)
    }

    /// A pod's label.
    pub(crate) fn label(name: &str) -> Self {
        Self::top("metadata").member("labels").key(name)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "the pod" } else { &self.0 })
    }
}
