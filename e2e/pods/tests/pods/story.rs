//! The story in pods: an unchanged agent retries, and the broker outside has executed one order; people apply a policy.

use anyhow::{Result, ensure};
use kybernis_pods::{Workload, World, said, soon, unheard_of};
use serde_json::json;

use crate::scenario::{Told, installed};

pub(crate) fn repeated(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("story")?;
    let url = world.url("/v1/refunds");
    let effects = |deployment: &str| {
        // The broker takes it, and breaks the connection instead of answering.
        world.fault("/v1/refunds", json!("reset"))?;
        let name = unheard_of(deployment);
        let said = space.agent(deployment)?.told("retrying.py", &[&url, &name])?;
        Ok::<_, anyhow::Error>((world.books()?.of(&name), said))
    };
    space.deploy(&Workload::new("bare", "idle.py", &[]).bare())?;
    space.deploy(&Workload::new("trader", "idle.py", &[]))?;
    let (bare, _) = effects("bare")?;
    ensure!(bare == 2, "without Kybernis the agent's retry buys twice, not {bare} times");
    let (governed, said) = effects("trader")?;
    ensure!(governed == 1, "executed {governed} times");
    ensure!(said.starts_with("423 ") && said.contains("effect_in_doubt"), "the agent heard: {said}");
    Ok(Told::new("connection reset after execution; `requests` retries", "1 of 1, then 423 (2 without a sidecar)"))
}

pub(crate) fn policy(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("trading")?;
    let trader = space.start(&Workload::new("trader", "idle.py", &[]))?;
    world.apply("deny.yaml")?;
    space.wait("policy/no-orders", "condition=Ready")?;
    let (denied, allowed) = (unheard_of("denied"), unheard_of("allowed"));
    let said_of_it = trader.told("retrying.py", &[&world.orders(), &denied])?;
    ensure!(said_of_it.starts_with("403 ") && said_of_it.contains("policy_denied"), "the agent heard: {said_of_it}");
    ensure!(world.books()?.of(&denied) == 0, "what was denied was executed");
    said(&mut space.kubectl(["delete", "policy/no-orders"]))?;
    soon("the policy is gone from the sidecar too", || {
        let placed = trader.told("retrying.py", &[&world.orders(), &allowed])?;
        Ok(placed.starts_with("20").then_some(()))
    })?;
    let executed = world.books()?.of(&allowed);
    ensure!(executed == 1, "what was allowed was executed {executed} times");
    Ok(Told::new("a Policy that denies, applied and deleted", "0 while it was Ready, 1 after"))
}
