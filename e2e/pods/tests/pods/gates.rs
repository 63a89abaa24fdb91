//! Orders that wait for people: who may decide, what their word binds, and what it does not do.

use anyhow::{Context as _, Result, ensure};
use kybernis_pods::{Space, Workload, World, said, soon, unheard_of};
use serde_json::{Value, json};

use crate::scenario::{Told, installed};

/// A word on a gate, as somebody would write it.
fn word(gate: &Value, decision: &str) -> Value {
    json!({
        "apiVersion": "kybernis.io/v1alpha1",
        "kind": "GateDecision",
        "metadata": {"generateName": "word-"},
        "spec": {
            "gate": gate["metadata"]["name"],
            "gateUid": gate["metadata"]["uid"],
            "digest": gate["spec"]["digest"],
            "decision": decision,
            "reason": "checked",
        },
    })
}

/// A word with one field changed.
fn with(mut word: Value, field: &str, value: Value) -> Value {
    word["spec"][field] = value;
    word
}

/// The gate that waits, once there is one.
fn waiting(space: &Space<'_>) -> Result<Value> {
    soon("a gate waits", || {
        let gates: Value = serde_json::from_str(&said(&mut space.kubectl(["get", "gates", "--output=json"]))?)?;
        let gates = gates["items"].as_array().context("no list of gates")?;
        Ok(gates.iter().find(|gate| gate["status"]["phase"] == "Pending").cloned())
    })
}

/// Words that count for nothing: who says them, what they are, and what kubectl is told.
fn refused(gate: &Value) -> [(&'static str, &'static str, Value, &'static str); 6] {
    let right = || word(gate, "Approve");
    let other = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    [
        ("who may not approve", "eve", right(), "may not approve"),
        ("a ServiceAccount", "system:serviceaccount:gates:default", right(), "ServiceAccount"),
        ("another request's digest", "ada", with(right(), "digest", json!(other)), "digest"),
        ("another object's uid", "ada", with(right(), "gateUid", json!("00000000-0000-0000-0000-000000000000")), "gateUid"),
        ("a gate that is not there", "ada", with(right(), "gate", json!("gate-of-nobody")), "gate-of-nobody"),
        ("a word for another question", "ada", word(gate, "Executed"), "which asks for Approve or Deny"),
    ]
}

pub(crate) fn two_people(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("gates")?;
    let trader = space.start(&Workload::new("trader", "idle.py", &[]))?;
    said(space.kubectl(["create", "--filename"]).arg(kybernis_pods::objects().join("approval.yaml")))?;
    space.wait("policy/two-people", "condition=Ready")?;
    let order = unheard_of("large");
    let asked = trader.told("retrying.py", &[&world.orders(), &order])?;
    ensure!(asked.starts_with("403 ") && asked.contains("approval_required"), "the agent heard: {asked}");

    let gate = waiting(&space)?;
    let name = gate["metadata"]["name"].as_str().context("the gate has no name")?;
    for (what, who, word, told) in refused(&gate) {
        let answer = space.create_as(who, "desk", &word.to_string())?;
        let heard = String::from_utf8_lossy(&answer.stderr);
        ensure!(!answer.status.success() && heard.contains(told), "{what}: {heard}");
    }
    untouchable(&space, name)?;
    ensure!(world.books()?.of(&order) == 0, "it was executed before anybody approved");

    // One person is one, however often and however loud.
    for _ in 0..2 {
        said_by(&space, "ada", &with(word(&gate, "Approve"), "decidedBy", json!("grace")))?;
    }
    let status = space.field(&format!("gate/{name}"), "{.status.phase} {.status.decisions[*].by}")?;
    ensure!(status == "Pending ada", "one person approved, and the gate says: {status}");
    let still = trader.told("retrying.py", &[&world.orders(), &order])?;
    ensure!(still.contains("approval_required"), "after one of two the agent heard: {still}");

    // A pod that was started anew finds what was approved for the one before.
    trader.kill()?;
    said_by(&space, "grace", &word(&gate, "Approve"))?;
    space.wait(&format!("gate/{name}"), "condition=Decided")?;
    let trader = space.agent("trader")?;
    let placed = trader.told("retrying.py", &[&world.orders(), &order])?;
    ensure!(placed.starts_with("20"), "the agent heard: {placed}");
    let executed = world.books()?.of(&order);
    ensure!(executed == 1, "what two people approved was executed {executed} times");
    space.wait(&format!("gate/{name}"), "jsonpath={.status.phase}=Consumed")?;
    Ok(Told::new("an order that two people must approve, and six words that do not count", "0 before, 1 after"))
}

/// Says a word, and waits until it is on record.
fn said_by(space: &Space<'_>, who: &str, word: &Value) -> Result<()> {
    let answer = space.create_as(who, "desk", &word.to_string())?;
    ensure!(answer.status.success(), "{who} may say it: {}", String::from_utf8_lossy(&answer.stderr));
    let made = String::from_utf8_lossy(&answer.stdout).split_whitespace().next().unwrap_or_default().to_owned();
    let by = space.field(&made, "{.spec.decidedBy}")?;
    ensure!(by == who, "{who} said it, and the record says {by}");
    space.wait(&made, "condition=Recorded")
}

/// What nobody does, whatever Kubernetes lets them: gates are the operator's, words are not changed.
fn untouchable(space: &Space<'_>, gate: &str) -> Result<()> {
    let gate = format!("gate/{gate}");
    let phase = r#"--patch={"status":{"phase":"Approved"}}"#;
    let required = r#"--patch={"spec":{"required":1}}"#;
    for patch in [vec!["patch", &gate, "--type=merge", required], vec!["patch", &gate, "--type=merge", "--subresource=status", phase]] {
        let refused = said(space.kubectl([]).args(&patch));
        ensure!(refused.is_err(), "kubectl {patch:?} went through");
    }
    Ok(())
}

pub(crate) fn denied(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("gates-denied")?;
    let trader = space.start(&Workload::new("trader", "idle.py", &[]))?;
    said(space.kubectl(["create", "--filename"]).arg(kybernis_pods::objects().join("approval.yaml")))?;
    space.wait("policy/two-people", "condition=Ready")?;
    let order = unheard_of("denied");
    trader.told("retrying.py", &[&world.orders(), &order])?;
    let gate = waiting(&space)?;
    said_by(&space, "ada", &word(&gate, "Deny"))?;
    space.wait(&format!("gate/{}", gate["metadata"]["name"].as_str().unwrap_or_default()), "condition=Denied")?;
    let heard = trader.told("retrying.py", &[&world.orders(), &order])?;
    ensure!(heard.contains("approval_denied") && heard.contains("ada denied it"), "the agent heard: {heard}");
    ensure!(world.books()?.of(&order) == 0, "what was denied was executed");
    Ok(Told::new("the same, and one of them denies", "0"))
}
