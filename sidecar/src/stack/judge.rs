//! What policy says about a call, and what the effect is called: evaluated here, over one snapshot, before anything is
//! asked of the ledger.

use std::sync::Arc;

use http::HeaderName;
use kybernis_core::cel::Facts;
use kybernis_core::ids::{Fingerprint, KeyDigest, Meaning, Principal};
use kybernis_core::key;
use kybernis_core::machine::{Approval, DerivedMode, DoubtCause, KeyLevel, ProbePlan};
use kybernis_core::mutation::broken;
use kybernis_core::policy::{ApprovalRule, Class, EffectiveTool, Judgement, PrincipalWord, Verdict};
use kybernis_core::reason::{Code, Refusal};

use super::call::Call;
use super::intake::Intake;
use super::summary;
use crate::control::{Identity, Snapshot};

/// A call with its verdict.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) tool: EffectiveTool,
    pub(super) facts: Facts,
    pub(super) judgement: Judgement,
    /// What would have been refused besides, had the policies been enforced.
    pub(super) noted: Vec<Refusal>,
}

/// What an effect is called.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) level: KeyLevel,
    pub(super) keys: Vec<KeyDigest>,
    /// The first characters of the key.
    pub(super) hint: String,
    pub(super) meaning: Meaning,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) principal: Principal,
    pub(super) derived: DerivedMode,
}

/// Whether every policy that selects the agent is in Audit mode.
pub(super) fn audits(snapshot: &Snapshot) -> bool {
    snapshot.policy().settings().audit && !broken("audit_alters_nothing")
}

/// A refusal; in Audit mode a note of it.
pub(super) fn unless_audited(snapshot: &Snapshot, noted: &mut Vec<Refusal>, refusal: Refusal) -> Result<(), Refusal> {
    if audits(snapshot) {
        noted.push(refusal);
        return Ok(());
    }
    Err(refusal)
}

/// What the endpoint means for this call.
pub(super) fn tool_of(snapshot: &Snapshot, call: &Call, noted: &mut Vec<Refusal>) -> Result<EffectiveTool, Refusal> {
    let set = snapshot.policy().set();
    if let Some(named) = call.controls.tool.as_ref().filter(|named| !set.tool_fits(named, &call.head)) {
        let detail = format!(
            "X-Kyb-Tool names {named:?}, and no ToolRegistration of that name matches {}. Name one that does, or leave the header out.",
            call.action()
        );
        unless_audited(snapshot, noted, Refusal::new(Code::ToolNotRegistered, detail))?;
    }
    Ok(set.resolve(&call.head))
}

/// Reads the body as far as this call's policy and effect need it.
pub(super) async fn take_in(
    snapshot: &Snapshot,
    tool: &EffectiveTool,
    call: &Call,
    body: crate::body::RequestBody,
    noted: &mut Vec<Refusal>,
) -> Result<Intake, Refusal> {
    let wants = snapshot.policy().wants(&call.head, tool);
    if call.upgrade || tool.class() == Class::Read && !wants.body {
        return Ok(Intake::streamed(body));
    }
    let bound = snapshot.policy().settings().body_bytes;
    let named = call.controls.key.is_some() || tool.has_key();
    let read = if call.grpc { Intake::read_grpc(body, bound, named).await } else { Intake::read(&call.headers, body, bound).await };
    let mut intake = read?;
    match intake.flaw() {
        Some(flaw) => unless_audited(snapshot, noted, flaw).map(|()| intake),
        None => Ok(intake),
    }
}

/// The verdict on a call whose body has been taken in.
pub(super) fn judge(
    snapshot: &Arc<Snapshot>,
    tool: EffectiveTool,
    call: &Call,
    intake: &Intake,
    identity: &Identity,
    mut noted: Vec<Refusal>,
) -> Result<Judged, Refusal> {
    let policy = snapshot.policy();
    let wants = policy.wants(&call.head, &tool);
    if wants.body && !intake.is_whole() {
        let detail = format!(
            "The body is longer than the {} bytes that policy may buffer (`Policy.spec.bodyBytes`), and a rule or registration reads it.",
            policy.settings().body_bytes
        );
        unless_audited(snapshot, &mut noted, Refusal::new(Code::BodyTooLargeForPolicy, detail))?;
    } else if let Err(mismatch) = tool.check_body(intake.json.as_ref()) {
        unless_audited(snapshot, &mut noted, Refusal::new(Code::SchemaMismatch, format!("{mismatch}.")))?;
    }
    let facts = if wants.facts || tool.outcome_expression().is_some() { facts(&tool, call, intake, identity) } else { Facts::new() };
    let judgement = policy.judge(&call.head, &tool, &facts);
    Ok(Judged { snapshot: Arc::clone(snapshot), tool, facts, judgement, noted })
}

fn facts(tool: &EffectiveTool, call: &Call, intake: &Intake, identity: &Identity) -> Facts {
    let headers = call.header_pairs();
    let labels = identity.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Facts::new()
        .with_request(&call.facts(&headers, intake.json.as_ref()))
        .with_agent(identity.agent.as_str(), identity.tenant.as_str(), labels)
        .with_run(call.run.as_str(), call.explicit_run)
        .with_tool(tool.name().as_str(), class_name(tool.class()))
        .with_attempt(1)
}

pub(super) const fn class_name(class: Class) -> &'static str {
    match class {
        Class::Read => "Read",
        Class::Llm => "LLM",
        Class::SideEffect => "SideEffect",
    }
}

/// The digest of a body that no other call has.
fn like_nothing() -> Fingerprint {
    key::fingerprint(uuid::Uuid::new_v4().as_bytes())
}

impl Named {
    /// A call that makes no sense as an effect, in Audit mode: it means nothing that another could meet.
    fn nothing(identity: &Identity, call: &Call) -> Self {
        let secret = &identity.secret;
        Self {
            level: KeyLevel::Derived,
            keys: Vec::new(),
            hint: String::new(),
            meaning: secret.meaning(call.head.method(), &call.url, like_nothing()),
            fingerprint: None,
            principal: key::principal(secret, std::iter::empty()),
            derived: DerivedMode::Off,
        }
    }
}

impl Judged {
    /// Whether nothing may be refused, changed or replayed.
    pub(super) fn audits(&self) -> bool {
        audits(&self.snapshot)
    }

    /// Why an answer that says neither leaves a doubt: who was asked for its meaning.
    pub(super) fn doubt_cause(&self) -> DoubtCause {
        if self.tool.outcome_expression().is_some() { DoubtCause::Outcome } else { DoubtCause::Status }
    }

    /// The refusal that a denial is.
    pub(super) fn denial(&self) -> Option<Refusal> {
        let Verdict::Deny(denial) = &self.judgement.verdict else { return None };
        let reason = self.judgement.reason.clone().unwrap_or_else(|| "a rule denies it".to_owned());
        let detail = format!("{reason}. Rule {} decides; change it, or make another call.", self.judgement.policy_id);
        Some(Refusal { policy_id: self.policy_id(), ..Refusal::new(denial.code(), detail) })
    }

    pub(super) fn policy_id(&self) -> Option<String> {
        Some(self.judgement.policy_id.clone()).filter(|id| !id.is_empty())
    }

    /// The people that must agree first.
    pub(super) fn approval_rule(&self) -> Option<&ApprovalRule> {
        match &self.judgement.verdict {
            Verdict::RequireApproval(rule) => Some(rule),
            Verdict::Allow | Verdict::Deny(_) => None,
        }
    }

    /// Names the effect, most specific first: the tool's own key, the caller's, what it means.
    pub(super) fn name(&mut self, call: &Call, intake: &Intake, identity: &Identity) -> Result<Named, Refusal> {
        self.names(call, intake, identity)
            .or_else(|refusal| unless_audited(&self.snapshot, &mut self.noted, refusal).map(|()| Named::nothing(identity, call)))
    }

    fn names(&self, call: &Call, intake: &Intake, identity: &Identity) -> Result<Named, Refusal> {
        let secret = &identity.secret;
        let volatile = if broken("volatile_is_left_out") { &[] } else { self.tool.volatile() };
        let fingerprint = intake.fingerprint(volatile);
        // A body that is still being hashed means nothing that another call could meet.
        let means = fingerprint.unwrap_or_else(like_nothing);
        let meaning = secret.meaning(call.head.method(), &call.url, means);
        let principal = self.principal(call, identity)?;
        let (level, keys, hint) = self.keys(call, identity)?;
        let derived = match self.tool.class() {
            Class::SideEffect => self.snapshot.policy().settings().derived_keys.mode,
            // Repeating a sample, or a read that people had to allow, is often meant.
            Class::Llm | Class::Read => DerivedMode::Off,
        };
        Ok(Named { level, keys, hint, meaning, fingerprint, principal, derived })
    }

    fn principal(&self, call: &Call, identity: &Identity) -> Result<Principal, Refusal> {
        let secret = &identity.secret;
        match self.tool.principal(&self.facts) {
            Ok(PrincipalWord::Credential) => {
                let headers = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
                Ok(key::principal(secret, headers))
            }
            Ok(PrincipalWord::None) => Ok(key::principal(secret, std::iter::empty())),
            Ok(PrincipalWord::Named(name)) => Ok(secret.named_principal(&name)),
            Err(error) => Err(Refusal::new(Code::PolicyError, format!("{error}."))),
        }
    }

    fn keys(&self, call: &Call, identity: &Identity) -> Result<(KeyLevel, Vec<KeyDigest>, String), Refusal> {
        let secret = &identity.secret;
        let own = self.tool.effect_keys(&self.facts).or_else(|error| if broken("a_key_error_is_final") { Ok(None) } else { Err(error) });
        let own = own.map_err(|error| {
            let detail = format!("{error}. The call names no effect; send the fields that the key is made of.");
            Refusal::new(Code::IdempotencyKeyInvalid, detail)
        })?;
        if let Some(keys) = own.filter(|_| !broken("the_tool_names_first") || call.controls.key.is_none()) {
            let hint = keys.first().map(|key| key::hint(key)).unwrap_or_default();
            let mut digests: Vec<KeyDigest> = keys.iter().map(|key| secret.tool_key(self.tool.key_scope(), key)).collect();
            digests.sort_unstable();
            digests.dedup();
            return Ok((KeyLevel::Tool, digests, hint));
        }
        if let Some(key) = &call.controls.key {
            if broken("a_caller_s_key_has_a_scope") {
                return Ok((KeyLevel::Caller, vec![secret.tool_key(self.tool.name(), key.expose())], key.hint()));
            }
            let digest = secret.caller_key(&identity.agent, call.head.method(), &call.url, key);
            return Ok((KeyLevel::Caller, vec![digest], key.hint()));
        }
        Ok((KeyLevel::Derived, Vec::new(), String::new()))
    }

    /// What the gate of a call that people must allow binds and shows.
    pub(super) fn approval(&self, call: &Call, intake: &Intake, named: &Named) -> Option<Approval> {
        let rule = self.approval_rule()?;
        // Without a fingerprint the ledger refuses: an approval binds bytes.
        let print = named.fingerprint.filter(|_| !broken("an_approval_binds_bytes")).unwrap_or_else(|| key::fingerprint(b""));
        Some(Approval {
            digest: key::request_digest(call.head.method(), &call.url, named.principal, print),
            required: rule.required,
            class: rule.class.clone(),
            expires_after: rule.expires_after,
            summary: self.summary(call, intake),
        })
    }

    /// The request in one line for people.
    pub(super) fn summary(&self, call: &Call, intake: &Intake) -> String {
        summary::of(intake, call.url.query(), self.tool.volatile())
    }

    /// The probe that would settle this effect, rendered while the call is at hand.
    pub(super) fn probe(&self) -> Option<(ProbePlan, Vec<u8>)> {
        let probe = self.tool.probe()?;
        let declared = probe.declared();
        match probe.render(&self.facts) {
            Ok(rendered) => {
                let plan = ProbePlan {
                    sealed: String::new(),
                    initial_delay: declared.initial_delay,
                    interval: declared.interval,
                    settle_horizon: declared.settle_horizon,
                    give_up_after: declared.give_up_after,
                };
                // Strings and lists of strings: this cannot fail.
                Some((plan, serde_json::to_vec(&rendered).unwrap_or_default()))
            }
            Err(error) => {
                tracing::warn!(%error, "the probe of a call cannot be rendered: a doubt about it will go to a person");
                None
            }
        }
    }

    /// The header in which the far side knows our key: the tool's own, or the one that the caller meant for it.
    pub(super) fn far_side_key_header(&self, call: &Call) -> Option<HeaderName> {
        let declared = self.tool.upstream_key_header().and_then(|name| HeaderName::try_from(name).ok());
        let ietf = HeaderName::from_static("idempotency-key");
        declared.or_else(|| call.headers.contains_key(&ietf).then_some(ietf))
    }
}
