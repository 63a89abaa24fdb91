//! The name of a PolicySet: a hash over its canonical JSON, so that sidecar and ledger know that they speak of one policy.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::model::PolicySet;
use crate::ids::PolicyDigest;

/// Hashes the set in its sorted order.
pub(super) fn of(set: &PolicySet) -> PolicyDigest {
    let mut hash = Sha256::new();
    // The model holds strings, integers and the users' own JSON, all of which serialise.
    write(&serde_json::to_value(set).unwrap_or(Value::Null), &mut hash);
    PolicyDigest::from_bytes(hash.finalize().into())
}

/// Compact JSON with members in the order of their names.
fn write(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<_>>());
            hash.update(b"{");
            for (at, (name, member)) in members.into_iter().enumerate() {
                if at > 0 {
                    hash.update(b",");
                }
                write(&Value::String(name.clone()), hash);
                hash.update(b":");
                write(member, hash);
            }
            hash.update(b"}");
        }
        Value::Array(items) => {
            hash.update(b"[");
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    hash.update(b",");
                }
                write(item, hash);
            }
            hash.update(b"]");
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => hash.update(value.to_string().as_bytes()),
    }
}
