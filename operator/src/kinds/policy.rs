//! Policy: it selects agents, and its status counts them and its rules.

use kybernis_core::policy::{PolicySet, Selector};

use super::Kind;
use crate::object::{Key, Object};

/// How many rules the object has.
pub(crate) fn rules(object: &Object) -> Option<u32> {
    if object.key.kind != Kind::Policy {
        return None;
    }
    let rules = object.pointer("/spec/rules").and_then(serde_json::Value::as_array);
    Some(rules.map_or(0, |rules| u32::try_from(rules.len()).unwrap_or(u32::MAX)))
}

/// Whom the object selects, as its set has it; `None`: everyone.
pub(crate) fn selector<'s>(key: &Key, set: &'s PolicySet) -> Option<&'s Selector> {
    if key.kind != Kind::Policy {
        return None;
    }
    let policy = set.policies.iter().find(|policy| policy.origin.namespace == key.namespace && policy.origin.name == key.name)?;
    Some(&policy.selector)
}
