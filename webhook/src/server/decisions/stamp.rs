//! What admission writes into a decision, and what it wants to find there after everybody else has had a turn.

use kybernis_core::ids::PersonId;
use kybernis_core::word::{Signature, SignatureError, Signer, Word};
use serde_json::{Map, Value, json};

use crate::server::review::{GROUP, Reason, Refused};

const DECIDED_BY: &str = "decidedBy";
const SIGNATURE: &str = "signature";

/// The decision with what only admission says: whose word it is, and the signature, or none where nothing will be stored. It belongs to
/// its gate, so that both go together; whatever a client wrote in these places is overwritten, and done again nothing changes.
pub(crate) fn stamped(object: &Value, word: &Word, signer: Option<&Signer>) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = members(&mut object, "metadata") {
        let owner = json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "Gate", "name": word.gate.as_str(), "uid": word.gate_uid});
        metadata.insert("ownerReferences".to_owned(), json!([owner]));
    }
    if let Some(spec) = members(&mut object, "spec") {
        spec.insert(DECIDED_BY.to_owned(), json!(word.person.as_str()));
        match signer {
            Some(signer) => spec.insert(SIGNATURE.to_owned(), json!(signer.sign(word).to_string())),
            None => spec.remove(SIGNATURE),
        };
    }
    object
}

/// A member of an object, itself an object from now on.
fn members<'o>(object: &'o mut Value, key: &str) -> Option<&'o mut Map<String, Value>> {
    let member = object.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
    if !member.is_object() {
        *member = json!({});
    }
    member.as_object_mut()
}

/// What stands under a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Nothing on a dry run.
    pub(crate) signature: Option<Signature>,
}

impl Stamp {
    /// Reads it, where it is this person's and signed exactly where it will be stored.
    pub(crate) fn read(object: &Value, person: &PersonId, is_dry_run: bool) -> Result<Self, Refused> {
        let text = |key: &str| object.get("spec").and_then(|spec| spec.get(key)).filter(|value| !value.is_null());
        let by = text(DECIDED_BY).and_then(Value::as_str);
        if by != Some(person.as_str()) {
            let (by, person) = (by.map_or_else(|| "is missing".to_owned(), |by| format!("is {by:.300?}")), person.as_str());
            return Err(spoilt(DECIDED_BY, &format!("{by}, and it is {person:?} who decides")));
        }
        let signature = match (text(SIGNATURE), is_dry_run) {
            (None, true) => return Ok(Self { signature: None }),
            (Some(_), true) => return Err(spoilt(SIGNATURE, "is there on a dry run, for which nothing is signed")),
            (None, false) => return Err(spoilt(SIGNATURE, "is missing")),
            (Some(signature), false) => signature.as_str().unwrap_or_default().parse::<Signature>(),
        };
        signature.map(|signature| Self { signature: Some(signature) }).map_err(|error| unbelieved(&error))
    }
}

/// Why a signature is not believed.
pub(crate) fn unbelieved(error: &SignatureError) -> Refused {
    spoilt(SIGNATURE, &error.to_string())
}

fn spoilt(field: &str, rule: &str) -> Refused {
    let advice = "Only Kybernis' mutating webhook writes it: let that see the decision, and nothing after it change one";
    Refused::new(Reason::Forbidden, format!("spec.{field}: {rule}. {advice}"))
}

#[cfg(test)]
mod tests {
    use kybernis_core::ids::{GateId, RequestDigest};
    use kybernis_core::machine::GateVerdict;

    use super::*;
    use crate::patch::patch;

    fn word() -> Word {
        Word {
            namespace: "trading".to_owned(),
            gate: GateId::new("trader-7f9c2").unwrap(),
            gate_uid: "u".to_owned(),
            class: "desk-heads".to_owned(),
            digest: RequestDigest::from_bytes([7; 32]),
            verdict: GateVerdict::Approve,
            reason: String::new(),
            person: PersonId::new("ada").unwrap(),
        }
    }

    #[test]
    fn what_a_client_wrote_there_is_overwritten_and_done_again_nothing_changes() {
        let signer = Signer::from_seed(&[1; 32]).unwrap();
        let clean = json!({"metadata": {"name": "d"}, "spec": {"gate": "trader-7f9c2", "future": {"x": 1}}});
        let mut forged = clean.clone();
        forged["spec"]["decidedBy"] = json!("boss");
        forged["spec"]["signature"] = json!(["x"]);
        forged["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
        let stamp = stamped(&clean, &word(), Some(&signer));
        assert_eq!(stamped(&forged, &word(), Some(&signer)), stamp);
        assert!(patch(&stamp, &stamped(&stamp, &word(), Some(&signer))).0.is_empty());
        let owner = json!({"apiVersion": "kybernis.io/v1alpha1", "kind": "Gate", "name": "trader-7f9c2", "uid": "u"});
        assert_eq!(stamp["metadata"], json!({"name": "d", "ownerReferences": [owner]}));
        assert_eq!(stamp["spec"]["future"], json!({"x": 1}), "what is not ours stays");
        let found = Stamp::read(&stamp, &word().person, false).unwrap().signature.unwrap();
        assert_eq!(found, signer.sign(&word()));
    }

    #[test]
    fn a_dry_run_is_signed_by_nobody() {
        let forged = json!({"metadata": [], "spec": {"signature": "x"}});
        let stamp = stamped(&forged, &word(), None);
        assert_eq!(stamp["spec"], json!({"decidedBy": "ada"}));
        assert_eq!(Stamp::read(&stamp, &word().person, true), Ok(Stamp { signature: None }));
    }

    #[test]
    fn a_stamp_that_is_not_ours_is_refused() {
        let signature = Signer::from_seed(&[1; 32]).unwrap().sign(&word()).to_string();
        for (spec, is_dry_run, expect) in [
            (json!({"signature": signature}), false, "spec.decidedBy: is missing"),
            (json!({"decidedBy": "eve", "signature": signature}), false, "spec.decidedBy: is \"eve\", and it is \"ada\" who decides"),
            (json!({"decidedBy": "eve"}), true, "spec.decidedBy: is \"eve\""),
            (json!({"decidedBy": "ada"}), false, "spec.signature: is missing"),
            (json!({"decidedBy": "ada", "signature": null}), false, "spec.signature: is missing"),
            (json!({"decidedBy": "ada", "signature": 7}), false, "spec.signature: is no signature"),
            (json!({"decidedBy": "ada", "signature": "ed25519:x"}), false, "spec.signature: is no signature"),
            (json!({"decidedBy": "ada", "signature": signature}), true, "spec.signature: is there on a dry run"),
        ] {
            let refused = Stamp::read(&json!({"spec": spec}), &word().person, is_dry_run).expect_err(expect);
            assert!(refused.reason == Reason::Forbidden && refused.message.starts_with(expect), "{}", refused.message);
        }
    }
}
