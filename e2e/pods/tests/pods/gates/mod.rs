//! Orders that wait for people, and the words that people say, or that others say for them.

mod forged;
mod late;
mod people;
mod stored;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use kybernis_pods::{Agent, Space, Workload, World, objects, said, soon};
use serde_json::{Value, json};

pub(crate) use self::forged::webhook_gone;
pub(crate) use self::late::expired;
pub(crate) use self::people::{denied, two_people};
pub(crate) use self::stored::kept;

/// Whom orders wait for, as the Policy of `approval.yaml` has it.
const TWO: &str = "required: 2, class: desk-heads, expiresAfter: 1h";

/// An agent in a namespace of its own whose orders wait for people, and the people.
fn trader<'s>(space: &'s Space<'_>, approval: &str) -> Result<Agent<'s>> {
    let agent = space.start(&Workload::new("trader", "idle.py", &[]))?;
    let manifest = fs::read_to_string(objects().join("approval.yaml"))?;
    ensure!(manifest.contains(TWO), "approval.yaml asks otherwise");
    space.create(&manifest.replace(TWO, approval))?;
    space.wait("policy/two-people", "condition=Ready")?;
    Ok(agent)
}

/// The agent places an order, and hears this.
fn asks(world: &World, agent: &Agent<'_>, order: &str, expected: &str) -> Result<String> {
    let heard = agent.told("retrying.py", &[&world.orders(), order])?;
    ensure!(heard.contains(expected), "the agent heard of {order}: {heard}; not {expected}");
    Ok(heard)
}

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

/// An object as JSON.
fn object(space: &Space<'_>, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&said(&mut space.kubectl(["get", name, "--output=json"]))?)?)
}

/// The gate that waits, once there is one.
fn waiting(space: &Space<'_>) -> Result<Value> {
    soon("a gate waits", || {
        let gates = object(space, "gates")?;
        let gates = gates["items"].as_array().context("no list of gates")?;
        Ok(gates.iter().find(|gate| gate["status"]["phase"] == "Pending").cloned())
    })
}

/// `gate/NAME`.
fn named(gate: &Value) -> String {
    format!("gate/{}", gate["metadata"]["name"].as_str().unwrap_or_default())
}

/// A word that is not let in, and what kubectl says about it.
fn refuses(space: &Space<'_>, what: &str, who: &str, word: &Value, told: &str) -> Result<()> {
    let answer = space.create_as(who, "desk", &word.to_string())?;
    let heard = String::from_utf8_lossy(&answer.stderr);
    ensure!(!answer.status.success() && heard.contains(told), "{what}, by {who}: {heard}; not {told}");
    Ok(())
}

/// Says a word that is let in; what became of it is its condition's to say.
fn stores(space: &Space<'_>, who: &str, word: &Value) -> Result<String> {
    let answer = space.create_as(who, "desk", &word.to_string())?;
    ensure!(answer.status.success(), "{who} may say it: {}", String::from_utf8_lossy(&answer.stderr));
    Ok(String::from_utf8_lossy(&answer.stdout).split_whitespace().next().unwrap_or_default().to_owned())
}

/// Says a word, and waits until it is on record.
fn said_by(space: &Space<'_>, who: &str, word: &Value) -> Result<String> {
    let made = stores(space, who, word)?;
    let by = space.field(&made, "{.spec.decidedBy}")?;
    ensure!(by == who, "{who} said it, and the record says {by}");
    space.wait(&made, "condition=Recorded")?;
    Ok(made)
}

/// Waits until a word that was let in is told that it counts for nothing, and why: the condition's reason and message.
fn not_taken(space: &Space<'_>, made: &str, why: &str) -> Result<()> {
    space.wait(made, "condition=Recorded=False")?;
    let told = space.field(made, "{.status.conditions[?(@.type=='Recorded')]['reason','message']}")?;
    ensure!(told.contains(why), "{made} is told: {told}; not {why}");
    Ok(())
}
