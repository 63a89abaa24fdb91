//! What comes too late: an approval that nobody used in time, and a word that was said in time and comes to the ledger after.

use anyhow::{Context as _, Result, ensure};
use kybernis_pods::{Space, World, said, soon, unheard_of};
use serde_json::Value;

use super::{asks, named, not_taken, object, refuses, said_by, stores, trader, waiting, word};
use crate::scenario::{Told, installed};

/// Long enough for a word by kubectl on a busy machine, and short enough to wait for its end.
const SHORT: &str = "required: 1, class: desk-heads, expiresAfter: 25s";

pub(crate) fn expired(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("gates-expired")?;
    let agent = trader(&space, SHORT)?;
    let order = unheard_of("late");
    asks(world, &agent, &order, "approval_required")?;
    let first = waiting(&space)?;
    said_by(&space, "ada", &word(&first, "Approve"))?;
    space.wait(&named(&first), "condition=Approved")?;
    ends(&space, &first, "True")?;
    asks(world, &agent, &order, "approval_expired")?;

    // Whoever passes words on is held up until the gate is over.
    let second = waiting(&space)?;
    signal_operator(world, "SIGSTOP")?;
    let late = stores(&space, "grace", &word(&second, "Approve")).and_then(|made| ended(world, &space, &second).map(|()| made));
    // It goes on whatever became of that: the scenarios after this one need it.
    signal_operator(world, "SIGCONT")?;
    not_taken(&space, &late?, "is Expired already")?;
    ends(&space, &second, "False")?;
    asks(world, &agent, &order, "approval_required")?;
    let executed = world.books()?.of(&order);
    ensure!(executed == 0, "what nobody approved in time was executed {executed} times");
    Ok(Told::new("an approval used too late, a word that comes to the ledger too late, words on gates that are over", "0"))
}

/// Waits until people read that the gate is over, and whether enough of them had spoken; then no word is let in.
fn ends(space: &Space<'_>, gate: &Value, decided: &str) -> Result<()> {
    space.wait(&named(gate), "jsonpath={.status.phase}=Expired")?;
    let reads = space.field(&named(gate), "{.status.conditions[?(@.type=='Decided')].status}")?;
    ensure!(reads == decided, "what is over is Decided={reads}, not {decided}");
    refuses(space, "a word on a gate that is over", "ada", &word(&object(space, &named(gate))?, "Approve"), "it is Expired")
}

/// Waits until the ledger itself says so.
fn ended(world: &World, space: &Space<'_>, gate: &Value) -> Result<()> {
    let path = format!("/apis/ledger.kybernis.io/v1alpha1/namespaces/{}/gates", space.name());
    soon("the ledger ends the gate", || {
        let page: Value = serde_json::from_str(&said(&mut world.kubectl(["get", "--raw", &path]))?)?;
        let gates = page["data"]["gates"].as_array().context("no list of gates")?;
        let is_over = |known: &Value| known["gate_id"] == gate["metadata"]["name"] && known["phase"] == "Expired";
        Ok(gates.iter().any(is_over).then_some(()))
    })
}

fn signal_operator(world: &World, signal: &str) -> Result<()> {
    let selector = "--selector=app.kubernetes.io/component=operator";
    let id = "--output=jsonpath={.items[0].status.containerStatuses[0].containerID}";
    let id = said(&mut world.kubectl_system(["get", "pods", selector, id]))?;
    world.cluster().signal_container(&id, signal)
}
