//! Few names, so that what random histories speak of collides.

use kybernis_core::ids::{
    AgentId, BodyDigest, BootId, DecisionId, Fingerprint, KeyDigest, Meaning, PersonId, PolicyDigest, Principal, RequestDigest, RunId,
    SpanId, ToolName,
};

pub(crate) const KEYS: u8 = 3;
pub(crate) const MEANINGS: u8 = 2;
pub(crate) const RUNS: u8 = 3;
pub(crate) const BOOTS: u8 = 3;

/// Boots 0 and 1 are the trader's pods; boot 2 is a stranger's.
pub(crate) fn agent_of(boot: u8) -> AgentId {
    AgentId::new(if boot < 2 { "trader" } else { "stranger" }).unwrap()
}

pub(crate) fn boot(n: u8) -> BootId {
    BootId::new(&format!("boot-{n}")).unwrap()
}

pub(crate) fn run(n: u8) -> RunId {
    RunId::new(&format!("run-{n}")).unwrap()
}

pub(crate) fn span(n: usize) -> SpanId {
    SpanId::new(&format!("span-{n}")).unwrap()
}

pub(crate) fn decision(n: usize) -> DecisionId {
    DecisionId::new(&format!("decision-{n}")).unwrap()
}

pub(crate) fn person(n: u8) -> PersonId {
    PersonId::new(&format!("person-{n}")).unwrap()
}

pub(crate) fn tool() -> ToolName {
    ToolName::new("broker-orders").unwrap()
}

pub(crate) fn key(n: u8) -> KeyDigest {
    KeyDigest::from_bytes([n; 32])
}

pub(crate) fn meaning(n: u8) -> Meaning {
    Meaning::from_bytes([n; 32])
}

pub(crate) fn fingerprint(n: u8) -> Fingerprint {
    Fingerprint::from_bytes([n; 32])
}

pub(crate) fn principal(n: u8) -> Principal {
    Principal::from_bytes([n; 32])
}

pub(crate) fn request(n: u8) -> RequestDigest {
    RequestDigest::from_bytes([n; 32])
}

pub(crate) fn body(n: u8) -> BodyDigest {
    BodyDigest::from_bytes([n; 32])
}

pub(crate) fn policy() -> PolicyDigest {
    PolicyDigest::from_bytes([9; 32])
}
