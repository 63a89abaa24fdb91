//! Pods that are replaced: the run of a Job is the Job, and a Deployment's agent is the Deployment.

use anyhow::{Context as _, Result, bail, ensure};
use kybernis_pods::{Workload, World, said, soon, unheard_of};
use serde_json::json;

use crate::scenario::{Told, installed};

pub(crate) fn completes(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-job")?;
    let (name, orders) = (unheard_of("job"), world.orders());
    space.start_job(&Workload::new("once", "order.py", &[&orders, &name]))?;
    space.wait("job/once", "condition=Complete")?;
    let pods = space.pods("once")?;
    let [pod] = pods.as_slice() else { bail!("it took the pods {pods:?}") };
    ensure!(space.pod(pod).sidecar_restarts()? == 0, "the sidecar was started anew");
    let executed = world.books()?.of(&name);
    ensure!(executed == 1, "executed {executed} times");
    Ok(Told::new("a Job with a native sidecar runs to its end", "1 of 1"))
}

pub(crate) fn retried(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-retried")?;
    let (name, refunds) = (unheard_of("retried"), world.url("/v1/refunds"));
    world.fault("/v1/refunds", json!({"hang": {"for_ms": 300_000}}))?;
    space.start_job(&Workload::new("once", "order.py", &[&refunds, &name]))?;
    soon("the broker has executed it", || Ok((world.books()?.of(&name) == 1).then_some(())))?;
    let pods = space.pods("once")?;
    let first = pods.first().context("the Job has no pod")?;
    space.pod(first).kill()?;
    let second = soon("the Job has another pod", || Ok(space.pods("once")?.into_iter().find(|pod| pod != first)))?;
    space.wait("job/once", "condition=Complete")?;
    let log = space.pod(&second).log()?;
    ensure!(log.trim_end().ends_with("423"), "the second pod heard: {log}");
    let executed = world.books()?.of(&name);
    ensure!(executed == 1, "executed {executed} times");
    Ok(Told::new("a Job's pod killed with its call under way", "1 of 1; the second pod: 423"))
}

pub(crate) fn rollout(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-rollout")?;
    let (name, refunds) = (unheard_of("rollout"), world.url("/v1/refunds"));
    let before = space.start(&Workload::new("trader", "idle.py", &[]))?;
    world.fault("/v1/refunds", json!("reset"))?;
    let heard = before.told("order.py", &[&refunds, &name])?;
    ensure!(heard == "423", "before the rollout: {heard}");
    said(&mut space.kubectl(["rollout", "restart", "deployment/trader"]))?;
    let after = space.agent("trader")?;
    ensure!(after.pod() != before.pod(), "the pod is the same");
    let heard = after.told("order.py", &[&refunds, &name])?;
    ensure!(heard == "423", "after the rollout: {heard}");
    let executed = world.books()?.of(&name);
    ensure!(executed == 1, "executed {executed} times");
    Ok(Told::new("an effect in doubt, then `kubectl rollout restart`", "1 of 1; the new pod: 423"))
}
