//! The name of a PolicySet: a hash over its canonical JSON, so that sidecar and ledger know that they speak of one policy.

use sha2::{Digest, Sha256};

use super::model::PolicySet;
use crate::ids::PolicyDigest;
use crate::json::Json;

/// Hashes the set in its sorted order.
pub(super) fn of(set: &PolicySet) -> PolicyDigest {
    let plain = serde_json::to_vec(&set.clone().sorted()).unwrap_or_default();
    // Only a schema nested beyond what any manifest may hold fails to parse; its plain form is deterministic as well.
    let canonical = Json::parse(&plain).map_or(plain, |json| json.canonical(&[]));
    PolicyDigest::from_bytes(Sha256::digest(canonical).into())
}
