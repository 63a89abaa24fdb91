//! What waits for people: Gate objects, in the columns of `kybernis gates`.

use clap::Args;
use kube::Api;
use kube::api::ListParams;
use kybernis_crds::kinds::{Decision, Gate, GateType, RecordedDecision};
use serde_json::{Value, json};

use super::connect::Cluster;
use crate::read::{OutputArgs, list_gates};

/// As many objects as are asked for at a time, as `kubectl` does.
const CHUNK: u32 = 500;

/// `kubectl kyb gates`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kubectl kyb gates -n trading\n  kubectl kyb approve GATE -n trading --reason 'checked with the desk'")]
pub(super) struct GatesArgs {
    /// Those of every namespace
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Those that are decided, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints gates, the newest first.
pub(super) async fn gates(cluster: &Cluster, args: &GatesArgs) -> anyhow::Result<()> {
    let api: Api<Gate> = match args.all_namespaces {
        true => Api::all(cluster.client.clone()),
        false => Api::namespaced(cluster.client.clone(), &cluster.namespace),
    };
    let mut views: Vec<Value> = everything(&api).await?.iter().map(view).collect();
    views.retain(|gate| args.all || gate["status"] == "PENDING");
    views.sort_by(|a, b| b["opened_at"].as_str().cmp(&a["opened_at"].as_str()));
    list_gates(&views, args.all, args.all_namespaces, args.output)
}

async fn everything(api: &Api<Gate>) -> kube::Result<Vec<Gate>> {
    let mut all = Vec::new();
    let mut chunk = ListParams::default().limit(CHUNK);
    loop {
        let list = api.list(&chunk).await?;
        all.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => chunk = chunk.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// The members that the ledger shows of a gate, as far as the object tells them.
fn view(gate: &Gate) -> Value {
    let spec = &gate.spec;
    let status = gate.status.clone().unwrap_or_default();
    let phase = phase(gate);
    let person = |word: &RecordedDecision| json!({"person": word.by, "decision": word.decision, "reason": word.reason, "at": word.at});
    json!({
        "namespace": gate.metadata.namespace,
        "gate_id": gate.metadata.name,
        "type": spec.kind,
        "status": standing(&phase),
        "phase": phase,
        "agent": spec.agent,
        "run_id": spec.run_id,
        "span_id": spec.span_id,
        "tool": spec.tool,
        "action": spec.action,
        "summary": spec.summary,
        "digest": spec.digest,
        "policy": spec.policy,
        "class": spec.class,
        "required": spec.required,
        "approvals": approvals(spec.kind, &status.decisions),
        "opened_at": gate.metadata.creation_timestamp,
        "expires_at": spec.expires_at,
        "decisions": status.decisions.iter().map(person).collect::<Vec<_>>(),
    })
}

/// Where a gate stands, in one word; one that nobody has looked at yet is pending.
pub(super) fn phase(gate: &Gate) -> String {
    let phase = gate.status.as_ref().and_then(|status| status.phase);
    phase.map_or_else(|| "Pending".to_owned(), |phase| format!("{phase:?}"))
}

/// The same in the words of the HTTP API.
fn standing(phase: &str) -> String {
    match phase {
        "Consumed" => "APPROVED".to_owned(),
        "Executed" | "NotExecuted" => "OVERRIDDEN".to_owned(),
        other => other.to_ascii_uppercase(),
    }
}

/// How many people's words count towards what is required; a person stands once among the recorded.
fn approvals(kind: GateType, words: &[RecordedDecision]) -> usize {
    let counts = |word: &&RecordedDecision| match (kind, word.decision) {
        (GateType::Approval, Decision::Approve) | (GateType::Resolution, Decision::Executed) => true,
        (GateType::Approval | GateType::Resolution, _) => false,
    };
    words.iter().filter(counts).count()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::kubectl) fn gate(status: Value) -> Gate {
        serde_json::from_value(json!({
            "apiVersion": "kybernis.io/v1alpha1",
            "kind": "Gate",
            "metadata": {"name": "trader-7f9c2", "namespace": "trading", "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "type": "Approval", "agent": "trading/trader/Deployment/trader", "runId": "r-1", "spanId": "s-1",
                "tool": "broker-orders", "action": "POST broker.example.com/v1/orders",
                "summary": "qty=500 symbol=AAPL side=buy price=190.00", "digest": format!("sha256:{}", "ab".repeat(32)),
                "policy": "trading/large-orders", "required": 2, "class": "desk-heads", "expiresAt": "2026-01-01T01:00:00Z",
            },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_gate_object_shows_what_the_ledger_shows() {
        let word = |by: &str, decision: &str| json!({"by": by, "decision": decision, "at": "2026-01-01T00:01:00Z"});
        for (status, standing, phase, approvals) in [
            (Value::Null, "PENDING", "Pending", 0),
            (json!({"phase": "Pending", "decisions": [word("ada", "Approve")]}), "PENDING", "Pending", 1),
            (json!({"phase": "Approved", "decisions": [word("ada", "Approve"), word("bob", "Approve")]}), "APPROVED", "Approved", 2),
            (json!({"phase": "Denied", "decisions": [word("ada", "Approve"), word("bob", "Deny")]}), "DENIED", "Denied", 1),
            (json!({"phase": "Consumed"}), "APPROVED", "Consumed", 0),
            (json!({"phase": "NotExecuted"}), "OVERRIDDEN", "NotExecuted", 0),
        ] {
            let view = view(&gate(status));
            assert_eq!((view["status"].as_str(), view["phase"].as_str()), (Some(standing), Some(phase)));
            assert_eq!(view["approvals"], approvals);
            assert_eq!((view["opened_at"].as_str(), view["gate_id"].as_str()), (Some("2026-01-01T00:00:00Z"), Some("trader-7f9c2")));
        }
    }
}
