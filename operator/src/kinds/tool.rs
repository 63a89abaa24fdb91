//! ToolRegistration: its probe may name a Secret.

use kybernis_core::policy::{SecretRef, Tool};

use super::Kind;
use crate::facts::{SecretName, SecretState};
use crate::object::Object;
use crate::reason::{Fault, Reason};

const FIELD: &str = "spec.effect.probe.secretRef";

/// The Secret that the object names, read before anybody has checked the object.
pub(crate) fn secret_name(object: &Object) -> Option<SecretName> {
    if object.key.kind != Kind::Tool {
        return None;
    }
    let name = object.pointer("/spec/effect/probe/secretRef/name")?.as_str()?;
    Some(SecretName { namespace: object.key.namespace.clone(), name: name.to_owned() })
}

/// The key that a tool's probe sends.
pub(crate) fn secret_ref(tool: &Tool) -> Option<&SecretRef> {
    tool.effect.probe.as_ref()?.secret_ref.as_ref()
}

/// Why the key that `wanted` names has no value.
pub(crate) fn missing(wanted: &SecretRef, state: Option<&SecretState>) -> Fault {
    let SecretRef { namespace, name, key } = wanted;
    let (reason, message) = match state {
        Some(SecretState::There(_)) => {
            (Reason::SecretNotFound, format!("{FIELD}: Secret {namespace}/{name} has no key {key}. Add the key, or name another."))
        }
        Some(SecretState::Absent) => (
            Reason::SecretNotFound,
            format!("{FIELD}: there is no Secret {namespace}/{name}. Add it with the key {key}, or remove the reference."),
        ),
        Some(SecretState::Unreadable(why)) => (
            Reason::SecretUnreadable,
            format!(
                "{FIELD}: Secret {namespace}/{name} cannot be read: {why}. Let the operator list and watch it, or remove the reference."
            ),
        ),
        None => (
            Reason::SecretUnreadable,
            format!("{FIELD}: Secret {namespace}/{name} has not been read yet. Wait; if this stays, see whether the operator may read it."),
        ),
    };
    Fault { reason, message }
}
