//! Decide: what a sidecar asks before the first byte.

use std::collections::{BTreeMap, HashMap};

use kybernis_core::ids::{
    AgentId, BootId, DecisionId, EffectId, Fingerprint, KeyDigest, Meaning, PolicyDigest, Principal, RequestDigest, RunId, SpanId, ToolName,
};
use kybernis_core::key::HINT_MAX;
use kybernis_core::machine::{ACTION_MAX, Approval, Decide, DerivedMode, Fence, KeyLevel, Observation, Seen};
use kybernis_core::time::Millis;

use crate::parse::{Invalid, bytes32, name, present, some_name, text};
use crate::v1;

/// Longest name of a rule, class or summary: one line for people.
const LINE_MAX: usize = 2048;

/// Notes of one call, their names and their values in bytes: they stand in the journal for as long as the run does.
pub const NOTES_MAX: usize = 32;
/// Longest name of a note.
pub const NOTE_NAME_MAX: usize = 64;
/// Longest value of a note; a longer one is cut with [`kybernis_core::text::shortened`].
pub const NOTE_MAX: usize = 256;

/// Longest sealed probe request.
const PROBE_MAX: usize = 64 * 1024;

/// A parsed Decide and what the engine needs beside the machine's command.
#[derive(Debug)]
pub struct DecideParts {
    /// The command, its probe not yet sealed (see `probe_request`).
    pub decide: Decide,
    /// The rendered probe in plain bytes, to be sealed into `decide.probe` before anything is kept.
    pub probe_request: Option<Vec<u8>>,
    /// How long to hold the call for another's flight.
    pub wait: Millis,
    /// How long to hold the call for a person.
    pub hold: Millis,
}

/// Reads a Decide of the agent that the caller's token names.
pub fn decide_request(request: v1::DecideRequest, agent: AgentId) -> Result<DecideParts, Invalid> {
    let keys: Result<Vec<_>, _> = request.keys.iter().map(|key| bytes32("keys", key).map(KeyDigest::from_bytes)).collect();
    let keys = keys?;
    let level = level(request.level())?;
    if (level == KeyLevel::Derived) != keys.is_empty() {
        return Err(Invalid::new("keys", "are given exactly when level is TOOL or CALLER"));
    }
    let fingerprint = match request.fingerprint.as_slice() {
        [] => None,
        bytes => Some(Fingerprint::from_bytes(bytes32("fingerprint", bytes)?)),
    };
    let derived = derived(request.derived())?;
    let observed = request.observed.into_iter().map(Observation::try_from).collect::<Result<_, _>>()?;
    let (probe, probe_request) = match request.probe {
        Some(plan) => {
            let (plan, request) = probe(plan)?;
            (Some(plan), Some(request))
        }
        None => (None, None),
    };
    let decide = Decide {
        boot: name("boot", &request.boot, BootId::new)?,
        decision: name("decision", &request.decision, DecisionId::new)?,
        agent,
        run: name("run", &request.run, RunId::new)?,
        explicit_run: request.explicit_run,
        span: name("span", &request.span, SpanId::new)?,
        parent_span: some_name("parent_span", &request.parent_span, SpanId::new)?,
        tool: name("tool", &request.tool, ToolName::new)?,
        action: text("action", request.action, ACTION_MAX)?,
        level,
        keys,
        key_hint: text("key_hint", request.key_hint, HINT_MAX)?,
        meaning: Meaning::from_bytes(bytes32("meaning", &request.meaning)?),
        fingerprint,
        principal: Principal::from_bytes(bytes32("principal", &request.principal)?),
        derived,
        derived_window: Millis::new(request.derived_window_ms),
        retention: Millis::new(request.retention_ms),
        probe,
        policy: PolicyDigest::from_bytes(bytes32("policy", &request.policy)?),
        policy_id: text("policy_id", request.policy_id, LINE_MAX)?,
        approval: request.approval.map(approval).transpose()?,
        attempt: request.attempt,
        notes: notes(request.notes)?,
        adopts: some_name("adopts", &request.adopts, EffectId::new)?,
        audit: request.audit,
        observed,
        lease: lease("lease_ms", request.lease_ms)?,
        patience_over: false,
    };
    Ok(DecideParts { decide, probe_request, wait: Millis::new(request.wait_ms), hold: Millis::new(request.hold_ms) })
}

/// A lease between a second and ten minutes: shorter ones lapse by a pause, longer ones hide a death.
pub(crate) fn lease(field: &'static str, ms: u64) -> Result<Millis, Invalid> {
    if (1_000..=600_000).contains(&ms) { Ok(Millis::new(ms)) } else { Err(Invalid::new(field, "lies between 1000 and 600000")) }
}

fn level(level: v1::KeyLevel) -> Result<KeyLevel, Invalid> {
    match level {
        v1::KeyLevel::Tool => Ok(KeyLevel::Tool),
        v1::KeyLevel::Caller => Ok(KeyLevel::Caller),
        v1::KeyLevel::Derived => Ok(KeyLevel::Derived),
        v1::KeyLevel::Unspecified => Err(Invalid::new("level", "is TOOL, CALLER or DERIVED")),
    }
}

fn derived(mode: v1::DerivedMode) -> Result<DerivedMode, Invalid> {
    match mode {
        v1::DerivedMode::Default => Ok(DerivedMode::Default),
        v1::DerivedMode::Replay => Ok(DerivedMode::Replay),
        v1::DerivedMode::Off => Ok(DerivedMode::Off),
        v1::DerivedMode::Unspecified => Err(Invalid::new("derived", "is DEFAULT, REPLAY or OFF")),
    }
}

fn probe(plan: v1::ProbePlan) -> Result<(kybernis_core::machine::ProbePlan, Vec<u8>), Invalid> {
    if plan.request.len() > PROBE_MAX {
        return Err(Invalid::new("probe.request", format!("has {} bytes; at most {PROBE_MAX} are allowed", plan.request.len())));
    }
    if plan.interval_ms == 0 {
        return Err(Invalid::new("probe.interval_ms", "is at least 1"));
    }
    let sealed = kybernis_core::machine::ProbePlan {
        sealed: String::new(),
        initial_delay: Millis::new(plan.initial_delay_ms),
        interval: Millis::new(plan.interval_ms),
        settle_horizon: plan.settle_horizon_ms.map(Millis::new),
        give_up_after: Millis::new(plan.give_up_after_ms),
    };
    Ok((sealed, plan.request))
}

fn notes(notes: HashMap<String, String>) -> Result<BTreeMap<String, String>, Invalid> {
    if notes.len() > NOTES_MAX {
        return Err(Invalid::new("notes", format!("has {} entries; at most {NOTES_MAX} are allowed", notes.len())));
    }
    for (name, value) in &notes {
        if !(1..=NOTE_NAME_MAX).contains(&name.len()) {
            return Err(Invalid::new("notes", format!("has a name of {} bytes; 1 to {NOTE_NAME_MAX} are allowed", name.len())));
        }
        if value.len() > NOTE_MAX {
            let rule = format!("{name:?} has a value of {} bytes; at most {NOTE_MAX} are allowed", value.len());
            return Err(Invalid::new("notes", rule));
        }
    }
    Ok(notes.into_iter().collect())
}

fn approval(approval: v1::Approval) -> Result<Approval, Invalid> {
    Ok(Approval {
        digest: RequestDigest::from_bytes(bytes32("approval.digest", &approval.digest)?),
        required: approval.required,
        class: text("approval.class", approval.class, LINE_MAX)?,
        expires_after: Millis::new(approval.expires_after_ms),
        summary: text("approval.summary", approval.summary, LINE_MAX)?,
    })
}

impl TryFrom<v1::Observation> for Observation {
    type Error = Invalid;

    fn try_from(observation: v1::Observation) -> Result<Self, Invalid> {
        let seen = match observation.seen() {
            v1::Seen::Read => Seen::Read,
            v1::Seen::CallerGone => Seen::CallerGone,
            v1::Seen::Unspecified => return Err(Invalid::new("observed.seen", "is READ or CALLER_GONE")),
        };
        let fence = present("observed.fence", Fence::new(observation.fence))?;
        Ok(Self { effect: name("observed.effect", &observation.effect, EffectId::new)?, fence, seen })
    }
}

impl From<&Observation> for v1::Observation {
    fn from(observation: &Observation) -> Self {
        let seen = match observation.seen {
            Seen::Read => v1::Seen::Read,
            Seen::CallerGone => v1::Seen::CallerGone,
        };
        Self { effect: observation.effect.to_string(), fence: observation.fence.get(), seen: seen.into() }
    }
}

impl From<&Approval> for v1::Approval {
    fn from(approval: &Approval) -> Self {
        Self {
            digest: approval.digest.as_bytes().to_vec(),
            required: approval.required,
            class: approval.class.clone(),
            expires_after_ms: approval.expires_after.get(),
            summary: approval.summary.clone(),
        }
    }
}

impl From<KeyLevel> for v1::KeyLevel {
    fn from(level: KeyLevel) -> Self {
        match level {
            KeyLevel::Tool => Self::Tool,
            KeyLevel::Caller => Self::Caller,
            KeyLevel::Derived => Self::Derived,
        }
    }
}

impl From<DerivedMode> for v1::DerivedMode {
    fn from(mode: DerivedMode) -> Self {
        match mode {
            DerivedMode::Default => Self::Default,
            DerivedMode::Replay => Self::Replay,
            DerivedMode::Off => Self::Off,
        }
    }
}

impl DecideParts {
    /// The message that carries these parts; agent and labels travel in the token.
    pub fn to_message(&self) -> v1::DecideRequest {
        let decide = &self.decide;
        let probe = decide.probe.as_ref().map(|plan| v1::ProbePlan {
            request: self.probe_request.clone().unwrap_or_default(),
            initial_delay_ms: plan.initial_delay.get(),
            interval_ms: plan.interval.get(),
            settle_horizon_ms: plan.settle_horizon.map(Millis::get),
            give_up_after_ms: plan.give_up_after.get(),
        });
        v1::DecideRequest {
            boot: decide.boot.to_string(),
            decision: decide.decision.to_string(),
            run: decide.run.to_string(),
            explicit_run: decide.explicit_run,
            span: decide.span.to_string(),
            parent_span: decide.parent_span.as_ref().map(ToString::to_string).unwrap_or_default(),
            tool: decide.tool.to_string(),
            action: decide.action.clone(),
            level: v1::KeyLevel::from(decide.level).into(),
            keys: decide.keys.iter().map(|key| key.as_bytes().to_vec()).collect(),
            key_hint: decide.key_hint.clone(),
            meaning: decide.meaning.as_bytes().to_vec(),
            fingerprint: decide.fingerprint.map(|print| print.as_bytes().to_vec()).unwrap_or_default(),
            principal: decide.principal.as_bytes().to_vec(),
            derived: v1::DerivedMode::from(decide.derived).into(),
            derived_window_ms: decide.derived_window.get(),
            retention_ms: decide.retention.get(),
            probe,
            policy: decide.policy.as_bytes().to_vec(),
            policy_id: decide.policy_id.clone(),
            approval: decide.approval.as_ref().map(Into::into),
            attempt: decide.attempt,
            notes: decide.notes.clone().into_iter().collect(),
            audit: decide.audit,
            adopts: decide.adopts.as_ref().map(ToString::to_string).unwrap_or_default(),
            observed: decide.observed.iter().map(Into::into).collect(),
            lease_ms: decide.lease.get(),
            wait_ms: self.wait.get(),
            hold_ms: self.hold.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> v1::DecideRequest {
        v1::DecideRequest {
            boot: "boot-1".to_owned(),
            decision: "d-1".to_owned(),
            run: "run-1".to_owned(),
            span: "span-1".to_owned(),
            tool: "orders".to_owned(),
            action: "POST broker.test/v1/orders".to_owned(),
            level: v1::KeyLevel::Tool.into(),
            keys: vec![vec![1; 32]],
            meaning: vec![2; 32],
            principal: vec![3; 32],
            derived: v1::DerivedMode::Default.into(),
            policy: vec![4; 32],
            attempt: 1,
            lease_ms: 30_000,
            adopts: "alone-1".to_owned(),
            audit: true,
            notes: HashMap::from([("audit".to_owned(), "would deny".to_owned())]),
            ..Default::default()
        }
    }

    fn parse(request: v1::DecideRequest) -> Result<DecideParts, Invalid> {
        decide_request(request, AgentId::new("trader").unwrap())
    }

    #[test]
    fn a_message_says_what_it_was_made_of() {
        assert_eq!(parse(request()).unwrap().to_message(), request());
    }

    #[test]
    fn lines_as_core_cuts_them_are_taken() {
        let key_hint = kybernis_core::key::hint("返金返金返金返金返金");
        let action = kybernis_core::text::shortened(&"ü".repeat(3000), ACTION_MAX);
        parse(v1::DecideRequest { key_hint, action, ..request() }).unwrap();
    }

    #[test]
    fn notes_are_bounded_and_a_refusal_says_how() {
        let name = |n: usize| format!("{n:064}");
        let full: HashMap<_, _> = (0..NOTES_MAX).map(|n| (name(n), "v".repeat(NOTE_MAX))).collect();
        assert_eq!(parse(v1::DecideRequest { notes: full.clone(), ..request() }).unwrap().decide.notes.len(), NOTES_MAX);
        let with = |name: String, value: String| HashMap::from([(name, value)]);
        let mut too_many = full;
        too_many.insert("one more".to_owned(), String::new());
        for (notes, rule) in [
            (too_many, "has 33 entries; at most 32 are allowed"),
            (with("n".repeat(65), String::new()), "has a name of 65 bytes; 1 to 64 are allowed"),
            (with(String::new(), String::new()), "has a name of 0 bytes; 1 to 64 are allowed"),
            (with("audit".to_owned(), "v".repeat(257)), "\"audit\" has a value of 257 bytes; at most 256 are allowed"),
        ] {
            let invalid = parse(v1::DecideRequest { notes, ..request() }).unwrap_err();
            assert_eq!((invalid.field, invalid.rule.as_str()), ("notes", rule));
        }
    }
}
