//! Whether the ledger took a person's word: the condition `Recorded` on the decision, and what the gate comes to by it.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Api;
use kybernis_crds::kinds::{Decision, Gate, GateDecision, GateType};
use tokio::time::Instant;

use crate::read::printable;

/// Between looks. A watch would need the verb, which whoever may decide need not have.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Waits for the ledger's word on `said`: the line that tells what is decided now.
///
/// # Errors
/// When the ledger refuses it, or has not said anything in time.
pub(super) async fn wait(
    gates: &Api<Gate>,
    decisions: &Api<GateDecision>,
    said: &GateDecision,
    timeout: Duration,
) -> anyhow::Result<String> {
    let name = said.metadata.name.as_deref().unwrap_or_default();
    let until = Instant::now() + timeout;
    let mut now = said.clone();
    loop {
        match recorded(&now) {
            Some(Ok(())) => break,
            Some(Err(why)) => anyhow::bail!("{} is not decided by this: {}", said.spec.gate, printable(&why)),
            None if Instant::now() >= until => {
                let namespace = said.metadata.namespace.as_deref().unwrap_or_default();
                anyhow::bail!(
                    "gatedecision.kybernis.io/{name} is created, and the ledger has not recorded it within {timeout:?}; it still may:\n  \
                     kubectl wait --for=condition=Recorded gatedecision/{name} -n {namespace}"
                );
            }
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
        now = decisions.get(name).await?;
    }
    Ok(line(&gates.get(&now.spec.gate).await?, &now))
}

/// The ledger's word, once it is there: yes, or why not.
fn recorded(said: &GateDecision) -> Option<Result<(), String>> {
    let conditions = &said.status.as_ref()?.conditions;
    let condition = conditions.iter().find(|condition| condition.type_ == "Recorded")?;
    match condition.status.as_str() {
        "True" => Some(Ok(())),
        "False" => Some(Err(format!("{} ({})", condition.message, condition.reason))),
        _ => None,
    }
}

/// What the gate comes to.
fn line(gate: &Gate, said: &GateDecision) -> String {
    let by = said.spec.decided_by.as_deref().map(printable);
    let by = by.map_or_else(String::new, |by| format!(" by {by}"));
    let (done, counted) = match said.spec.decision {
        Decision::Approve => ("approved", tally(gate, said)),
        Decision::Deny => ("denied", String::new()),
        Decision::Executed => ("resolved as executed", tally(gate, said)),
        Decision::NotExecuted => ("resolved as not executed", tally(gate, said)),
    };
    format!("gate.kybernis.io/{} {done}{by}{counted}", said.spec.gate)
}

/// How many have said the same, this one among them whether or not the gate's status shows it yet.
fn tally(gate: &Gate, said: &GateDecision) -> String {
    let required = gate.spec.required;
    if gate.spec.kind == GateType::Resolution && required == 1 {
        return String::new();
    }
    let words = gate.status.iter().flat_map(|status| &status.decisions).filter(|word| word.decision == said.spec.decision);
    let people: BTreeSet<&str> = words.map(|word| word.by.as_str()).chain(said.spec.decided_by.as_deref()).collect();
    format!(" ({} of {required})", people.len())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubectl::gates::tests::gate;

    fn said(decision: &str, by: Value, conditions: Value) -> GateDecision {
        serde_json::from_value(json!({
            "apiVersion": "kybernis.io/v1alpha1",
            "kind": "GateDecision",
            "metadata": {"name": "trader-7f9c2-1", "namespace": "trading"},
            "spec": {"gate": "trader-7f9c2", "gateUid": "u-1", "digest": "sha256:0", "decision": decision, "decidedBy": by},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn condition(kind: &str, status: &str) -> Value {
        json!([{"type": kind, "status": status, "reason": "Why", "message": "so", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    #[test]
    fn only_the_ledgers_word_counts() {
        let of = |conditions| recorded(&said("Approve", Value::Null, conditions));
        assert_eq!(of(json!([])), None);
        assert_eq!(of(condition("Other", "True")), None);
        assert_eq!(of(condition("Recorded", "Unknown")), None);
        assert_eq!(of(condition("Recorded", "True")), Some(Ok(())));
        assert_eq!(of(condition("Recorded", "False")), Some(Err("so (Why)".to_owned())));
    }

    #[test]
    fn the_line_counts_people_once_and_oneself_in() {
        let word = |by: &str, decision: &str| json!({"by": by, "decision": decision, "at": "2026-01-01T00:01:00Z"});
        for (words, decision, by, expect) in [
            (json!([]), "Approve", json!("ada"), "approved by ada (1 of 2)"),
            (json!([word("ada", "Approve")]), "Approve", json!("ada"), "approved by ada (1 of 2)"),
            (json!([word("bob", "Approve")]), "Approve", json!("ada"), "approved by ada (2 of 2)"),
            (json!([word("bob", "Approve")]), "Deny", json!("ada"), "denied by ada"),
            (json!([word("bob", "Approve")]), "Deny", Value::Null, "denied"),
        ] {
            let gate = gate(json!({"decisions": words}));
            assert_eq!(line(&gate, &said(decision, by, json!([]))), format!("gate.kybernis.io/trader-7f9c2 {expect}"));
        }
        let mut asks = gate(Value::Null);
        asks.spec.kind = GateType::Resolution;
        asks.spec.required = 1;
        let resolved = line(&asks, &said("NotExecuted", json!("ada"), json!([])));
        assert_eq!(resolved, "gate.kybernis.io/trader-7f9c2 resolved as not executed by ada");
    }
}
