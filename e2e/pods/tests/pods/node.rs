//! The node's own parts.

use anyhow::{Result, ensure};
use kybernis_cluster::Part;
use kybernis_pods::{Workload, World, unheard_of};

use crate::scenario::{Told, goes_on, installed};

pub(crate) fn kubelet_restarted(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-kubelet")?;
    let (name, orders) = (unheard_of("kubelet"), world.orders());
    let ticker = space.start(&Workload::new("ticker", "ticker.py", &[&orders, &name]))?;
    world.cluster().stop(Part::Kubelet, "KILL")?;
    let without = goes_on(world, &name);
    // It comes back whatever became of that: the scenarios after this one need it.
    world.cluster().start_part(Part::Kubelet)?;
    without?;
    // A pod that starts says that it is back at work.
    space.start(&Workload::new("fresh", "idle.py", &[]))?;
    let executed = goes_on(world, &name)?;
    ensure!(ticker.sidecar_restarts()? == 0, "the agent's sidecar was started anew");
    Ok(Told::new("kubelet killed, agents watched, kubelet started", format!("{executed} of {executed} once")))
}
