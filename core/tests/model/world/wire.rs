//! The messages that sidecars send, made of the few numbers by which the model tells them apart.

use kybernis_core::ids::{
    AgentId, BodyDigest, BootId, DecisionId, Fingerprint, KeyDigest, Meaning, PolicyDigest, Principal, RunId, SpanId, ToolName,
};
use kybernis_core::machine::{Command, Decide, DerivedMode, Grant, KeyLevel, ProbePlan, StoredAnswer};
use kybernis_core::time::Millis;

use super::{HORIZON, Permit, World};
use crate::ledger::TICK;

impl World {
    pub(super) fn decide(&self, c: u8, life: u8, call: u8) -> Command {
        let probe = ProbePlan {
            sealed: String::new(),
            initial_delay: Millis::new(0),
            interval: TICK,
            settle_horizon: Some(Millis::new(TICK.get() * u64::from(HORIZON))),
            give_up_after: Millis::new(TICK.get() * 3),
        };
        Command::Decide(Box::new(Decide {
            boot: boot(c, life),
            decision: decision(c, call),
            agent: AgentId::new("trader").unwrap(),
            run: RunId::new(&format!("run-{c}")).unwrap(),
            explicit_run: false,
            span: SpanId::new(&format!("span-{c}-{call}")).unwrap(),
            parent_span: None,
            tool: ToolName::new("broker-orders").unwrap(),
            action: "POST broker.example.com/v1/orders".to_owned(),
            level: KeyLevel::Tool,
            keys: vec![KeyDigest::from_bytes([1; 32])],
            key_hint: String::new(),
            meaning: Meaning::from_bytes([1; 32]),
            fingerprint: Some(Fingerprint::from_bytes([1; 32])),
            principal: Principal::from_bytes([1; 32]),
            derived: DerivedMode::Default,
            derived_window: Millis::from_secs(600),
            retention: Millis::from_secs(72 * 3600),
            probe: self.limits.probe.then_some(probe),
            policy: PolicyDigest::from_bytes([9; 32]),
            policy_id: String::new(),
            approval: None,
            attempt: 1,
            adopts: None,
            audit: false,
            notes: std::collections::BTreeMap::new(),
            observed: Vec::new(),
            lease: TICK,
            patience_over: true,
        }))
    }
}

pub(super) fn permit(grant: &Grant) -> Permit {
    Permit { effect: grant.effect.clone(), fence: grant.fence }
}

pub(super) fn boot(caller: u8, life: u8) -> BootId {
    BootId::new(&format!("boot-{caller}-{life}")).unwrap()
}

pub(super) fn decision(caller: u8, call: u8) -> DecisionId {
    DecisionId::new(&format!("decision-{caller}-{call}")).unwrap()
}

pub(super) fn answer() -> StoredAnswer {
    let digest = BodyDigest::from_bytes([7; 32]);
    StoredAnswer { status: 201, headers: Vec::new(), trailers: Vec::new(), digest, len: 20, stored: true }
}
