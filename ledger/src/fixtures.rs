//! Calls as sidecars make them, for tests.

use std::collections::BTreeMap;

use kybernis_core::ids::*;
use kybernis_core::machine::*;
use kybernis_core::time::Millis;
use kybernis_proto::DecideParts;

pub(crate) const POLICY: PolicyDigest = PolicyDigest::from_bytes([9; 32]);
pub(crate) const BODY: &[u8] = b"{\"order\":1}";

pub(crate) fn agent() -> AgentId {
    AgentId::new("trader").unwrap()
}

pub(crate) fn boot() -> BootId {
    BootId::new("boot-1").unwrap()
}

/// A Decide of one key, under a decision id of its own.
pub(crate) fn call(key: u8, decision: &str) -> DecideParts {
    let decide = Decide {
        boot: boot(),
        decision: DecisionId::new(decision).unwrap(),
        agent: agent(),
        run: RunId::new("run-1").unwrap(),
        explicit_run: false,
        span: SpanId::new(&format!("span-{decision}")).unwrap(),
        parent_span: None,
        tool: ToolName::new("orders").unwrap(),
        action: "POST broker.test/v1/orders".to_owned(),
        level: KeyLevel::Tool,
        keys: vec![KeyDigest::from_bytes([key; 32])],
        key_hint: "order:1".to_owned(),
        meaning: Meaning::from_bytes([key; 32]),
        fingerprint: Some(Fingerprint::from_bytes([key; 32])),
        principal: Principal::from_bytes([1; 32]),
        derived: DerivedMode::Default,
        derived_window: Millis::from_secs(600),
        retention: Millis::from_secs(72 * 3600),
        probe: None,
        policy: POLICY,
        policy_id: String::new(),
        approval: None,
        attempt: 1,
        adopts: None,
        notes: BTreeMap::new(),
        observed: Vec::new(),
        lease: Millis::from_secs(30),
        patience_over: false,
        audit: false,
    };
    DecideParts { decide, probe_request: None, wait: Millis::from_secs(5), hold: Millis::new(0) }
}

pub(crate) fn settle(grant: &Grant, outcome: SettleOutcome) -> Settle {
    Settle {
        boot: boot(),
        effect: grant.effect.clone(),
        fence: grant.fence,
        outcome,
        fingerprint: None,
        latency: Millis::new(3),
        bytes_out: 10,
        bytes_in: 11,
    }
}

pub(crate) fn completed() -> SettleOutcome {
    SettleOutcome::Completed(StoredAnswer {
        status: 201,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        trailers: Vec::new(),
        digest: BodyDigest::from_bytes([7; 32]),
        len: BODY.len() as u64,
        stored: true,
    })
}

/// The same under a rule that asks `required` people.
pub(crate) fn gated(key: u8, decision: &str, required: u32) -> DecideParts {
    let mut parts = call(key, decision);
    let digest = RequestDigest::from_bytes([key; 32]);
    let (class, expires_after, summary) = ("desk".to_owned(), Millis::from_secs(60), "qty=1".to_owned());
    parts.decide.approval = Some(Approval { digest, required, class, expires_after, summary });
    parts
}
