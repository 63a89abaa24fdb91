//! What a client says in a GateDecision. The API server holds objects against their schema only after the mutating webhooks, so here
//! nothing about them is known yet; everything that is wrong is told together.

use kybernis_core::ids::{GateId, PersonId, RequestDigest};
use kybernis_core::machine::GateVerdict;
use kybernis_core::word::Word;
use serde_json::Value;

use super::DECISION;
use crate::config::is_dns_name;
use crate::server::review::{Cause, Refused};

/// Longest reason, in characters; the schema's own bound.
const REASON_MAX: usize = 1024;
/// Longest uid of an object, in characters; the schema's own bound.
const UID_MAX: usize = 64;
/// How a digest is written.
const DIGEST_SCHEME: &str = "sha256:";

/// A decision whose fields hold, each by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) gate: GateId,
    pub(crate) gate_uid: String,
    pub(crate) digest: RequestDigest,
    pub(crate) verdict: GateVerdict,
    pub(crate) reason: String,
}

/// What is wrong so far.
struct Faults(Vec<Cause>);

impl Faults {
    fn add<T>(&mut self, field: &str, message: String) -> Option<T> {
        self.0.push(Cause { field: format!("spec.{field}"), message });
        None
    }
}

impl Said {
    /// Reads it, and says what is wrong with the object of this name.
    pub(crate) fn read(object: &Value, name: &str) -> Result<Self, Refused> {
        let mut faults = Faults(Vec::new());
        let gate = required(object, "gate", &mut faults).and_then(|text| gate(text, &mut faults));
        let gate_uid = required(object, "gateUid", &mut faults).and_then(|text| gate_uid(text, &mut faults));
        let digest = required(object, "digest", &mut faults).and_then(|text| digest(text, &mut faults));
        let verdict = required(object, "decision", &mut faults).and_then(|text| verdict(text, &mut faults));
        let reason = reason(object, &mut faults);
        match (gate, gate_uid, digest, verdict, reason) {
            (Some(gate), Some(gate_uid), Some(digest), Some(verdict), Some(reason)) => Ok(Self { gate, gate_uid, digest, verdict, reason }),
            _ => Err(Refused::invalid(DECISION, name, faults.0)),
        }
    }

    /// What is signed when this person says it there.
    pub(crate) fn word(self, namespace: &str, class: &str, person: PersonId) -> Word {
        let Self { gate, gate_uid, digest, verdict, reason } = self;
        Word { namespace: namespace.to_owned(), gate, gate_uid, class: class.to_owned(), digest, verdict, reason, person }
    }
}

fn field<'o>(object: &'o Value, key: &str) -> Option<&'o Value> {
    object.get("spec")?.get(key).filter(|value| !value.is_null())
}

fn required<'o>(object: &'o Value, key: &str, faults: &mut Faults) -> Option<&'o str> {
    match field(object, key).map(Value::as_str) {
        Some(Some(text)) if !text.is_empty() => Some(text),
        Some(None) => faults.add(key, "is no string. Write it as one.".to_owned()),
        Some(Some(_)) | None => faults.add(key, "is missing. `kubectl kyb approve` fills it in from the gate.".to_owned()),
    }
}

fn gate(text: &str, faults: &mut Faults) -> Option<GateId> {
    // It becomes part of a path at the API server.
    let gate = GateId::new(text).ok().filter(|_| is_dns_name(text));
    gate.or_else(|| faults.add("gate", "is no gate's name. Give one that `kubectl get gates` lists.".to_owned()))
}

fn gate_uid(text: &str, faults: &mut Faults) -> Option<String> {
    let is_uid = text.chars().count() <= UID_MAX;
    is_uid.then(|| text.to_owned()).or_else(|| faults.add("gateUid", "is no uid. Give the gate's metadata.uid.".to_owned()))
}

fn digest(text: &str, faults: &mut Faults) -> Option<RequestDigest> {
    // Upper case would be another text for the same bytes.
    let digest = text.strip_prefix(DIGEST_SCHEME).and_then(RequestDigest::from_hex).filter(|digest| digest.to_string() == text);
    let advice = "is not sha256: and 64 lower-case hexadecimal digits. Give the gate's spec.digest.";
    digest.or_else(|| faults.add("digest", advice.to_owned()))
}

fn verdict(text: &str, faults: &mut Faults) -> Option<GateVerdict> {
    match text {
        "Approve" => Some(GateVerdict::Approve),
        "Deny" => Some(GateVerdict::Deny),
        "Executed" => Some(GateVerdict::Executed),
        "NotExecuted" => Some(GateVerdict::NotExecuted),
        _ => faults.add("decision", "is no decision. Write Approve or Deny, or of a Resolution Executed or NotExecuted.".to_owned()),
    }
}

fn reason(object: &Value, faults: &mut Faults) -> Option<String> {
    let text = match field(object, "reason") {
        None => return Some(String::new()),
        Some(Value::String(text)) => text,
        Some(_) => return faults.add("reason", "is no string. Write it as one.".to_owned()),
    };
    match text.chars().count() {
        count if count > REASON_MAX => faults.add("reason", format!("has {count} characters. Say it in {REASON_MAX}.")),
        _ => Some(text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Value {
        json!({"gate": "trader-7f9c2", "gateUid": "u", "digest": format!("sha256:{}", "07".repeat(32)), "decision": "Approve"})
    }

    #[test]
    fn what_holds_is_read() {
        let mut spec = spec();
        let said = Said::read(&json!({"spec": spec}), "d").unwrap();
        let expect = Said {
            gate: GateId::new("trader-7f9c2").unwrap(),
            gate_uid: "u".to_owned(),
            digest: RequestDigest::from_bytes([7; 32]),
            verdict: GateVerdict::Approve,
            reason: String::new(),
        };
        assert_eq!(said, expect);
        spec["reason"] = json!("é".repeat(1024));
        assert_eq!(Said::read(&json!({"spec": spec}), "d").unwrap().reason.chars().count(), 1024);
        spec["reason"] = Value::Null;
        assert_eq!(Said::read(&json!({"spec": spec}), "d").unwrap(), expect);
    }

    #[test]
    fn each_field_is_held_to_its_rule() {
        for (key, value, expect) in [
            ("gate", json!("../../secrets/x"), "is no gate's name"),
            ("gate", json!("Trader"), "is no gate's name"),
            ("gate", json!("a".repeat(129)), "is no gate's name"),
            ("gate", json!(""), "is missing"),
            ("gate", json!(7), "is no string"),
            ("gateUid", json!("u".repeat(65)), "is no uid"),
            ("gateUid", Value::Null, "is missing"),
            ("digest", json!("07".repeat(32)), "is not sha256:"),
            ("digest", json!(format!("sha256:{}", "AB".repeat(32))), "is not sha256:"),
            ("digest", json!(format!("sha256:{}", "07".repeat(31))), "is not sha256:"),
            ("decision", json!("approve"), "is no decision"),
            ("reason", json!("é".repeat(1025)), "has 1025 characters"),
            ("reason", json!(["a"]), "is no string"),
        ] {
            let mut spec = spec();
            spec[key] = value;
            let refused = Said::read(&json!({"spec": spec}), "d").expect_err(key);
            let [cause] = refused.causes.as_slice() else { panic!("{refused:?}") };
            assert!(cause.field == format!("spec.{key}") && cause.message.starts_with(expect), "{cause:?}");
        }
        let all = Said::read(&json!({}), "d").expect_err("nothing is there");
        assert_eq!(all.causes.len(), 4);
    }
}
