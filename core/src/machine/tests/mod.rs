//! Each rule of the contract as a test named after it, over a small ledger that applies, folds and answers.

mod aging;
mod gates;
mod outcome;
mod second_call;
mod words;

use std::collections::BTreeMap;

use super::*;
use crate::ids::{
    AgentId, BodyDigest, BootId, DecisionId, EffectId, Fingerprint, GateId, KeyDigest, Meaning, PersonId, PolicyDigest, Principal,
    RequestDigest, RunId, SpanId, ToolName,
};
use crate::reason::Code;
use crate::time::Millis;

const LEASE: Millis = Millis::from_secs(30);

/// A ledger in memory: what the driver does around [`apply`], with a clock that the test moves.
#[derive(Clone, Default)]
struct Ledger {
    state: State,
    now_ms: u64,
    spent: u64,
}

impl Ledger {
    fn ask(&mut self, command: &Command) -> Outcome {
        self.spent += 1;
        let mut entropy = [0; 16];
        entropy[..8].copy_from_slice(&self.spent.to_be_bytes());
        let outcome = apply(&self.state, command, Timestamp::from_epoch_ms(self.now_ms), Entropy::new(entropy));
        outcome.events.iter().for_each(|event| self.state.fold(event));
        outcome
    }

    fn decide(&mut self, decide: &Decide) -> Reply {
        self.ask(&Command::Decide(Box::new(decide.clone()))).reply
    }

    fn grant(&mut self, decide: &Decide) -> Grant {
        match self.decide(decide) {
            Reply::Grant(grant) => *grant,
            other => panic!("expected a grant, got {other:?}"),
        }
    }

    fn refusal(&mut self, decide: &Decide) -> Refuse {
        match self.decide(decide) {
            Reply::Refuse(refuse) => *refuse,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn settle(&mut self, boot: &str, grant: &Grant, outcome: SettleOutcome) -> Reply {
        self.ask(&Command::Settle(Box::new(settle_of(boot, grant, outcome)))).reply
    }

    fn pass(&mut self, span: Millis) -> Outcome {
        self.now_ms += span.get();
        self.ask(&Command::Expire)
    }

    fn effect(&self, grant: &Grant) -> &Effect {
        self.state.effect(&grant.effect).unwrap()
    }

    fn vote(&mut self, gate: &GateId, person: &str, verdict: GateVerdict) -> Outcome {
        self.ask(&Command::DecideGate(Box::new(DecideGate {
            gate: gate.clone(),
            digest: None,
            person: PersonId::new(person).unwrap(),
            verdict,
            reason: "checked".to_owned(),
            voucher: None,
        })))
    }
}

fn settle_of(boot: &str, grant: &Grant, outcome: SettleOutcome) -> Settle {
    Settle {
        boot: BootId::new(boot).unwrap(),
        effect: grant.effect.clone(),
        fence: grant.fence,
        outcome,
        fingerprint: None,
        latency: Millis::new(12),
        bytes_out: 100,
        bytes_in: 20,
    }
}

fn answer() -> StoredAnswer {
    StoredAnswer {
        status: 201,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        trailers: Vec::new(),
        digest: BodyDigest::from_bytes([7; 32]),
        len: 20,
        stored: true,
    }
}

fn completed() -> SettleOutcome {
    SettleOutcome::Completed(answer())
}

fn doubt() -> SettleOutcome {
    SettleOutcome::InDoubt { cause: DoubtCause::Eof, status: None }
}

/// An order named by its tool: boot `a`, run `run-1`, key 1, body 1.
fn order(decision: &str) -> Decide {
    Decide {
        boot: BootId::new("a").unwrap(),
        decision: DecisionId::new(decision).unwrap(),
        agent: AgentId::new("trader").unwrap(),
        run: RunId::new("run-1").unwrap(),
        explicit_run: false,
        span: SpanId::new(&format!("span-{decision}")).unwrap(),
        parent_span: None,
        tool: ToolName::new("broker-orders").unwrap(),
        action: "POST broker.example.com/v1/orders".to_owned(),
        level: KeyLevel::Tool,
        keys: vec![KeyDigest::from_bytes([1; 32])],
        key_hint: "order:1".to_owned(),
        meaning: Meaning::from_bytes([1; 32]),
        fingerprint: Some(Fingerprint::from_bytes([1; 32])),
        principal: Principal::from_bytes([1; 32]),
        derived: DerivedMode::Default,
        derived_window: Millis::from_secs(600),
        retention: Millis::from_secs(72 * 3600),
        probe: None,
        policy: PolicyDigest::from_bytes([9; 32]),
        policy_id: String::new(),
        approval: None,
        attempt: 1,
        adopts: None,
        notes: BTreeMap::new(),
        observed: Vec::new(),
        lease: LEASE,
        patience_over: false,
        audit: false,
    }
}

fn unnamed(decision: &str) -> Decide {
    Decide { level: KeyLevel::Derived, keys: Vec::new(), key_hint: String::new(), ..order(decision) }
}

fn probe(horizon: Option<Millis>) -> ProbePlan {
    ProbePlan {
        sealed: "sealed".to_owned(),
        initial_delay: Millis::from_secs(2),
        interval: Millis::from_secs(10),
        settle_horizon: horizon,
        give_up_after: Millis::from_secs(600),
    }
}

fn approval(digest: u8, required: u32) -> Approval {
    Approval {
        digest: RequestDigest::from_bytes([digest; 32]),
        required,
        class: "desk-heads".to_owned(),
        expires_after: Millis::from_secs(3600),
        summary: "qty=500".to_owned(),
    }
}

fn seen(grant: &Grant, seen: Seen) -> Observation {
    Observation { effect: grant.effect.clone(), fence: grant.fence, seen }
}
