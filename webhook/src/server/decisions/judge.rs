//! Whether a word counts: of a gate that is there, that is the one which the person saw, that waits, and that this person may decide.
//! Pure: what the API server has said of the gate and of the person's rights comes as arguments, and so does the time.

use kybernis_core::ids::PersonId;
use kybernis_core::machine::GateVerdict;
use kybernis_core::word::Word;
use kybernis_crds::kinds::{GatePhase, GateType};

use super::DECISION;
use super::said::Said;
use crate::server::certificates::moment::Moment;
use crate::server::review::{Cause, GROUP, Reason, Refused};

/// What a decision is held against, of a Gate object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) uid: String,
    /// As it stands there.
    pub(crate) digest: String,
    pub(crate) kind: GateType,
    pub(crate) class: String,
    pub(crate) phase: Option<GatePhase>,
    pub(crate) expires: Option<Expiry>,
}

/// When a gate is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    pub(crate) at: Moment,
    /// As people read it.
    pub(crate) text: String,
}

/// Whether a person may, by the API server's authorizers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct May {
    pub(crate) is_allowed: bool,
    /// What an authorizer adds.
    pub(crate) remark: Option<String>,
}

/// One decision, on the gate that it names.
#[derive(Debug)]
pub(crate) struct Case<'c> {
    pub(crate) namespace: &'c str,
    /// The decision's own name.
    pub(crate) name: &'c str,
    pub(crate) person: &'c PersonId,
    pub(crate) said: &'c Said,
}

impl Case<'_> {
    /// There is no gate of that name.
    pub(crate) fn no_gate(&self) -> Refused {
        let (gate, namespace) = (&self.said.gate, self.namespace);
        let message = format!(
            "there is no gate {gate:?} in namespace {namespace:?}. `kubectl get gates -n {namespace}` lists those that wait.",
            gate = gate.as_str()
        );
        Refused::invalid(DECISION, self.name, vec![Cause { field: "spec.gate".to_owned(), message }])
    }

    /// The word that is signed, where it counts.
    pub(crate) fn judge(&self, gate: &Gate, may: &May, now: Moment) -> Result<Word, Refused> {
        // First: who may not decide learns no more of a gate.
        self.may(gate, may)?;
        let causes = self.mismatches(gate);
        if !causes.is_empty() {
            return Err(Refused::invalid(DECISION, self.name, causes));
        }
        self.waits(gate, now)?;
        Ok(self.said.clone().word(self.namespace, &gate.class, self.person.clone()))
    }

    fn may(&self, gate: &Gate, may: &May) -> Result<(), Refused> {
        if may.is_allowed {
            return Ok(());
        }
        let (person, class, namespace) = (self.person.as_str(), &gate.class, self.namespace);
        let remark = may.remark.as_ref().map_or_else(String::new, |remark| format!(" ({remark:.300})"));
        let message = format!(
            "user {person:?} may not approve gateclasses.{GROUP} {class:?} in namespace {namespace:?}{remark}; a Role there with verb \
             approve, apiGroup {GROUP}, resource gateclasses and resourceName {class}, bound to the user or a group of theirs, allows it"
        );
        Err(Refused::new(Reason::Forbidden, message))
    }

    /// The fields that are not this gate's.
    fn mismatches(&self, gate: &Gate) -> Vec<Cause> {
        let (mut causes, name) = (Vec::new(), self.said.gate.as_str());
        let mut add = |field: &str, message: String| causes.push(Cause { field: field.to_owned(), message });
        if self.said.gate_uid != gate.uid {
            let message = format!("is not the uid of gate {name:?}, which is {}; a namesake is another gate. Look at it again.", gate.uid);
            add("spec.gateUid", message);
        }
        if self.said.digest.to_string() != gate.digest {
            let message =
                format!("is not the digest of gate {name:?}, which is {}; it binds another request. Look at it again.", gate.digest);
            add("spec.digest", message);
        }
        let fitting = match (gate.kind, self.said.verdict) {
            (GateType::Approval, GateVerdict::Approve | GateVerdict::Deny)
            | (GateType::Resolution, GateVerdict::Executed | GateVerdict::NotExecuted) => None,
            (GateType::Approval, GateVerdict::Executed | GateVerdict::NotExecuted) => Some("Approval, which asks for Approve or Deny"),
            (GateType::Resolution, GateVerdict::Approve | GateVerdict::Deny) => Some("Resolution, which asks for Executed or NotExecuted"),
        };
        if let Some(fitting) = fitting {
            add("spec.decision", format!("does not fit gate {name:?} of type {fitting}."));
        }
        causes
    }

    fn waits(&self, gate: &Gate, now: Moment) -> Result<(), Refused> {
        let name = self.said.gate.as_str();
        let over = match gate.phase {
            None | Some(GatePhase::Pending) => match &gate.expires {
                Some(expiry) if now >= expiry.at => format!("it expired at {}", expiry.text),
                Some(_) | None => return Ok(()),
            },
            Some(phase) => format!("it is {phase:?}"),
        };
        let advice = match gate.kind {
            GateType::Approval => "Where the agent asks again, a new gate opens",
            GateType::Resolution => "What it asked is settled",
        };
        let message = format!("spec.gate: gate {name:?} waits for no decision: {over}. {advice}");
        Err(Refused::new(Reason::Forbidden, message))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kybernis_core::ids::{GateId, RequestDigest};

    use super::*;

    const NOW: Moment = Moment::from_millis(1_780_000_000_000);

    fn said() -> Said {
        let (gate, digest) = (GateId::new("trader-7f9c2").unwrap(), RequestDigest::from_bytes([7; 32]));
        Said { gate, gate_uid: "u".to_owned(), digest, verdict: GateVerdict::Approve, reason: "checked".to_owned() }
    }

    fn gate() -> Gate {
        Gate {
            uid: "u".to_owned(),
            digest: RequestDigest::from_bytes([7; 32]).to_string(),
            kind: GateType::Approval,
            class: "desk-heads".to_owned(),
            phase: None,
            expires: Some(Expiry { at: NOW.after(Duration::from_millis(1)), text: "soon".to_owned() }),
        }
    }

    fn judged(said: Said, gate: Gate, may: bool) -> Result<Word, Refused> {
        let person = PersonId::new("ada").unwrap();
        let case = Case { namespace: "trading", name: "d", person: &person, said: &said };
        case.judge(&gate, &May { is_allowed: may, remark: None }, NOW)
    }

    #[test]
    fn a_word_that_counts_is_the_one_that_was_said() {
        let person = PersonId::new("ada").unwrap();
        assert_eq!(judged(said(), gate(), true), Ok(said().word("trading", &gate().class, person)));
        let pending = Gate { phase: Some(GatePhase::Pending), ..gate() };
        assert!(judged(said(), pending, true).is_ok());
        for verdict in [GateVerdict::Executed, GateVerdict::NotExecuted] {
            let resolution = Gate { kind: GateType::Resolution, expires: None, ..gate() };
            assert_eq!(judged(Said { verdict, ..said() }, resolution, true).unwrap().verdict, verdict);
        }
        assert_eq!(judged(Said { verdict: GateVerdict::Deny, ..said() }, gate(), true).unwrap().verdict, GateVerdict::Deny);
    }

    #[test]
    fn a_word_that_does_not_count_is_refused_with_its_field() {
        let resolution = Gate { kind: GateType::Resolution, ..gate() };
        for (said, gate, field) in [
            (Said { gate_uid: "U".to_owned(), ..said() }, gate(), "spec.gateUid"),
            (Said { digest: RequestDigest::from_bytes([8; 32]), ..said() }, gate(), "spec.digest"),
            (Said { verdict: GateVerdict::Executed, ..said() }, gate(), "spec.decision"),
            (Said { verdict: GateVerdict::NotExecuted, ..said() }, gate(), "spec.decision"),
            (said(), resolution.clone(), "spec.decision"),
            (Said { verdict: GateVerdict::Deny, ..said() }, resolution, "spec.decision"),
        ] {
            let refused = judged(said, gate, true).expect_err(field);
            assert_eq!((refused.reason, refused.causes.len(), refused.causes[0].field.as_str()), (Reason::Invalid, 1, field));
        }
    }

    #[test]
    fn a_gate_that_is_over_takes_no_word() {
        use GatePhase::{Approved, Consumed, Denied, Executed, Expired, NotExecuted};
        for phase in [Approved, Denied, Expired, Consumed, Executed, NotExecuted] {
            let refused = judged(said(), Gate { phase: Some(phase), ..gate() }, true).expect_err("it is over");
            assert_eq!(refused.reason, Reason::Forbidden);
            assert!(refused.message.contains(&format!("it is {phase:?}")), "{}", refused.message);
        }
        let expires = Some(Expiry { at: NOW, text: "2026-01-01T00:00:00Z".to_owned() });
        let refused = judged(said(), Gate { expires, ..gate() }, true).expect_err("it is over");
        assert!(refused.message.contains("it expired at 2026-01-01T00:00:00Z"), "{}", refused.message);
    }

    #[test]
    fn who_may_not_decide_is_told_what_would_allow_it_and_no_more() {
        let wrong = Said { gate_uid: "U".to_owned(), ..said() };
        let refused = judged(wrong, gate(), false).expect_err("they may not");
        assert_eq!(refused.reason, Reason::Forbidden);
        let expect = "user \"ada\" may not approve gateclasses.kybernis.io \"desk-heads\" in namespace \"trading\"; a Role there with verb approve, ";
        assert!(refused.message.starts_with(expect) && !refused.message.contains("uid"), "{}", refused.message);
    }
}
