//! Who may decide, what their word binds, and what it does not do.

use anyhow::{Context as _, Result, ensure};
use kybernis_pods::{Space, World, said, unheard_of};
use serde_json::{Value, json};

use super::{TWO, asks, refuses, said_by, trader, waiting, with, word};
use crate::scenario::{Told, installed};

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
    let agent = trader(&space, TWO)?;
    let order = unheard_of("large");
    asks(world, &agent, &order, "approval_required")?;

    let gate = waiting(&space)?;
    let name = gate["metadata"]["name"].as_str().context("the gate has no name")?;
    for (what, who, word, told) in refused(&gate) {
        refuses(&space, what, who, &word, told)?;
    }
    untouchable(&space, name)?;
    ensure!(world.books()?.of(&order) == 0, "it was executed before anybody approved");

    // One person is one, however often and however loud.
    for _ in 0..2 {
        said_by(&space, "ada", &with(word(&gate, "Approve"), "decidedBy", json!("grace")))?;
    }
    let status = space.field(&format!("gate/{name}"), "{.status.phase} {.status.decisions[*].by}")?;
    ensure!(status == "Pending ada", "one person approved, and the gate says: {status}");
    asks(world, &agent, &order, "approval_required")?;

    // A pod that was started anew finds what was approved for the one before.
    agent.kill()?;
    said_by(&space, "grace", &word(&gate, "Approve"))?;
    space.wait(&format!("gate/{name}"), "condition=Decided")?;
    asks(world, &space.agent("trader")?, &order, "201 ")?;
    let executed = world.books()?.of(&order);
    ensure!(executed == 1, "what two people approved was executed {executed} times");
    space.wait(&format!("gate/{name}"), "jsonpath={.status.phase}=Consumed")?;
    Ok(Told::new("an order that two people must approve, and six words that do not count", "0 before, 1 after"))
}

/// What nobody does, whatever Kubernetes lets them: gates are the operator's.
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
    let agent = trader(&space, TWO)?;
    let order = unheard_of("denied");
    asks(world, &agent, &order, "approval_required")?;
    let gate = waiting(&space)?;
    said_by(&space, "ada", &word(&gate, "Deny"))?;
    space.wait(&format!("gate/{}", gate["metadata"]["name"].as_str().unwrap_or_default()), "condition=Denied")?;
    let heard = asks(world, &agent, &order, "approval_denied")?;
    ensure!(heard.contains("ada denied it"), "the agent heard: {heard}");
    ensure!(world.books()?.of(&order) == 0, "what was denied was executed");
    Ok(Told::new("the same, and one of them denies", "0"))
}
