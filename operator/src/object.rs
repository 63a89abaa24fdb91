//! An object that somebody wrote, as the API server has it: never decoded into our own types before the checks have seen it, so
//! that one object that does not decode cannot hide the others.

use std::fmt;
use std::sync::Arc;

use kube::core::DynamicObject;
use serde_json::{Map, Value, json};

use crate::kinds::Kind;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) key: Key,
    pub(crate) uid: String,
    /// Counts changes of the spec.
    pub(crate) generation: i64,
    /// Names this very state, status included.
    pub(crate) version: String,
    found: Arc<DynamicObject>,
}

impl Object {
    /// What a watch brought; `None` for what no API server sends.
    pub(crate) fn read(kind: Kind, found: Arc<DynamicObject>) -> Option<Self> {
        let metadata = &found.metadata;
        let key = Key { namespace: metadata.namespace.clone()?, kind, name: metadata.name.clone()? };
        let (uid, generation) = (metadata.uid.clone()?, metadata.generation.unwrap_or_default());
        let version = metadata.resource_version.clone().unwrap_or_default();
        Some(Self { key, uid, generation, version, found })
    }

    /// The whole object, for the checks.
    pub(crate) fn value(&self) -> Value {
        let mut members = match &self.found.data {
            Value::Object(members) => members.clone(),
            _ => Map::new(),
        };
        let resource = self.key.kind.resource();
        members.insert("apiVersion".to_owned(), Value::String(resource.api_version));
        members.insert("kind".to_owned(), Value::String(resource.kind));
        members.insert("metadata".to_owned(), json!({"name": self.key.name, "namespace": self.key.namespace}));
        Value::Object(members)
    }

    /// A value below the root; metadata is not among them.
    pub(crate) fn pointer(&self, pointer: &str) -> Option<&Value> {
        self.found.data.pointer(pointer)
    }

    /// The status as it stands.
    pub(crate) fn status(&self) -> Option<&Value> {
        self.found.data.get("status")
    }
}
