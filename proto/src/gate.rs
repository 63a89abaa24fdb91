//! Gates as the operator is told of them, and a person's word as the operator passes it on.

use kybernis_core::ids::{GateId, PersonId, RequestDigest, TenantId, is_dns_label};
use kybernis_core::machine::{Gate, GateKind, GatePhase, GateVerdict, REASON_MAX};
use kybernis_core::word::{Signature, SignatureError, Word};

use crate::parse::{Invalid, bytes32, name};
use crate::v1;

/// Longest uid of an object, in bytes: Kubernetes' own have 36.
const UID_MAX: usize = 128;

/// A person's word, and what is to be believed of it.
#[derive(Clone, Debug)]
pub struct SignedWord {
    /// Whose gate it is about.
    pub tenant: TenantId,
    /// What is said.
    pub word: Word,
    /// Who vouches for it. A person wrote the object that this stood in, so that it is none is no fault of the message's.
    pub signature: Result<Signature, SignatureError>,
}

impl TryFrom<v1::DecideGateRequest> for SignedWord {
    type Error = Invalid;

    fn try_from(request: v1::DecideGateRequest) -> Result<Self, Invalid> {
        let verdict = verdict(request.verdict())?;
        let v1::DecideGateRequest { tenant, namespace, gate, gate_uid, digest, reason, person, signature, class, verdict: _ } = request;
        let tenant = name("tenant", &label("tenant", tenant)?, TenantId::new)?;
        let namespace = label("namespace", namespace)?;
        if !(1..=UID_MAX).contains(&gate_uid.len()) {
            return Err(Invalid::new("gate_uid", format!("has {} bytes; 1 to {UID_MAX} are allowed", gate_uid.len())));
        }
        let characters = reason.chars().count();
        if characters > REASON_MAX {
            return Err(Invalid::new("reason", format!("has {characters} characters; at most {REASON_MAX} are allowed")));
        }
        let word = Word {
            namespace,
            gate: name("gate", &gate, GateId::new)?,
            gate_uid,
            class,
            digest: RequestDigest::from_bytes(bytes32("digest", &digest)?),
            verdict,
            reason,
            person: PersonId::new(&person).map_err(|error| Invalid::new("person", error.to_string()))?,
        };
        Ok(Self { tenant, word, signature: signature.parse() })
    }
}

fn label(field: &'static str, text: String) -> Result<String, Invalid> {
    if is_dns_label(&text) { Ok(text) } else { Err(Invalid::new(field, format!("{text:?} is no DNS label (RFC 1123)"))) }
}

fn verdict(verdict: v1::GateVerdict) -> Result<GateVerdict, Invalid> {
    match verdict {
        v1::GateVerdict::Approve => Ok(GateVerdict::Approve),
        v1::GateVerdict::Deny => Ok(GateVerdict::Deny),
        v1::GateVerdict::Executed => Ok(GateVerdict::Executed),
        v1::GateVerdict::NotExecuted => Ok(GateVerdict::NotExecuted),
        v1::GateVerdict::Unspecified => Err(Invalid::new("verdict", "is none of approve, deny, executed, not executed")),
    }
}

const fn verdict_message(verdict: GateVerdict) -> v1::GateVerdict {
    match verdict {
        GateVerdict::Approve => v1::GateVerdict::Approve,
        GateVerdict::Deny => v1::GateVerdict::Deny,
        GateVerdict::Executed => v1::GateVerdict::Executed,
        GateVerdict::NotExecuted => v1::GateVerdict::NotExecuted,
    }
}

const fn kind(kind: GateKind) -> v1::GateKind {
    match kind {
        GateKind::Approval => v1::GateKind::Approval,
        GateKind::Resolution => v1::GateKind::Resolution,
    }
}

const fn phase(phase: GatePhase) -> v1::GatePhase {
    match phase {
        GatePhase::Pending => v1::GatePhase::Pending,
        GatePhase::Approved => v1::GatePhase::Approved,
        GatePhase::Denied => v1::GatePhase::Denied,
        GatePhase::Expired => v1::GatePhase::Expired,
        GatePhase::Consumed => v1::GatePhase::Consumed,
        GatePhase::Executed => v1::GatePhase::Executed,
        GatePhase::NotExecuted => v1::GatePhase::NotExecuted,
        GatePhase::Superseded => v1::GatePhase::Superseded,
    }
}

/// The message that says where a tenant's gate stands.
pub fn gate_state(tenant: &TenantId, gate: &Gate) -> v1::GateState {
    let spec = &gate.spec;
    let votes = gate.votes.iter().map(|(person, vote)| v1::GateVote {
        person: person.to_string(),
        verdict: verdict_message(vote.verdict).into(),
        reason: vote.reason.clone(),
        at_ms: vote.at.epoch_ms(),
    });
    v1::GateState {
        tenant: tenant.to_string(),
        gate: spec.gate.to_string(),
        kind: kind(spec.kind).into(),
        agent: spec.agent.to_string(),
        run: spec.run.to_string(),
        span: spec.span.to_string(),
        tool: spec.tool.to_string(),
        action: spec.action.clone(),
        summary: spec.summary.clone(),
        digest: spec.digest.as_bytes().to_vec(),
        policy: spec.policy.clone(),
        // None asked is one asked, as the ledger counts.
        required: spec.required.max(1),
        class: spec.class.clone(),
        expires_at_ms: spec.expires_at.map(|at| at.epoch_ms()),
        phase: phase(gate.phase).into(),
        opened_at_ms: gate.opened_at.epoch_ms(),
        ended_at_ms: gate.ended_at.map(|at| at.epoch_ms()),
        votes: votes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> v1::DecideGateRequest {
        v1::DecideGateRequest {
            tenant: "trading".to_owned(),
            namespace: "desk".to_owned(),
            gate: "gate-1".to_owned(),
            gate_uid: "6a4b".to_owned(),
            digest: vec![7; 32],
            verdict: v1::GateVerdict::Deny.into(),
            reason: "too large".to_owned(),
            person: "ada@example.com".to_owned(),
            signature: String::new(),
            class: "desk-heads".to_owned(),
        }
    }

    #[test]
    fn a_word_is_read_field_by_field_and_one_that_is_not_signed_is_still_a_word() {
        let read = SignedWord::try_from(request()).unwrap();
        let expect = Word {
            namespace: "desk".to_owned(),
            gate: GateId::new("gate-1").unwrap(),
            gate_uid: "6a4b".to_owned(),
            class: "desk-heads".to_owned(),
            digest: RequestDigest::from_bytes([7; 32]),
            verdict: GateVerdict::Deny,
            reason: "too large".to_owned(),
            person: PersonId::new("ada@example.com").unwrap(),
        };
        assert_eq!((read.tenant.as_str(), read.word, read.signature), ("trading", expect, Err(SignatureError::Form)));
    }

    #[test]
    fn a_field_that_breaks_a_rule_is_named() {
        let check = |change: fn(&mut v1::DecideGateRequest), expect: &str| {
            let mut request = request();
            change(&mut request);
            let refused = SignedWord::try_from(request).unwrap_err().to_string();
            assert!(refused.starts_with(expect), "{refused}");
        };
        check(|r| r.tenant = "a/../b".to_owned(), "tenant: \"a/../b\" is no DNS label");
        check(|r| r.namespace.clear(), "namespace: \"\" is no DNS label");
        check(|r| r.gate = "a b".to_owned(), "gate: gate name has ' ' at position 1");
        check(|r| r.gate_uid.clear(), "gate_uid: has 0 bytes; 1 to 128");
        check(|r| r.digest = vec![7; 31], "digest: has 31 bytes; give 32");
        check(|r| r.verdict = 9, "verdict: is none of");
        check(|r| r.reason = "é".repeat(1025), "reason: has 1025 characters; at most 1024");
        check(|r| r.person = "ada\n".to_owned(), "person: a person's name has the control character");
        check(|r| r.person = "é".repeat(257), "person: a person's name has 257 characters");
    }
}
