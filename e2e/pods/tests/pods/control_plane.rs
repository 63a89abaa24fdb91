//! Parts of Kybernis go, and come back.

use std::time::Duration;

use anyhow::{Result, ensure};
use kybernis_pods::{Agent, Workload, World, said, soon, unheard_of};

use crate::scenario::{Told, goes_on, installed};

const LEDGER: &str = "kybernis-ledger-0";
/// Agents side by side.
const LOAD: usize = 6;
/// A call takes milliseconds; one that took this long has waited for the ledger.
const HELD: Duration = Duration::from_millis(500);

/// What a ticker has printed: orders that were answered and how, and tries that were not the last.
struct Log(Vec<(String, Duration)>, usize);

impl Log {
    fn of(agent: &Agent<'_>) -> Result<Self> {
        let mut log = Self(Vec::new(), 0);
        for line in agent.log()?.lines() {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["again", ..] => log.1 += 1,
                [_, status, seconds] => log.0.push(((*status).to_owned(), Duration::from_secs_f64(seconds.parse()?))),
                _ => {}
            }
        }
        Ok(log)
    }

    /// Those that were answered as they should be, but late.
    fn held(&self) -> usize {
        self.0.iter().filter(|(status, took)| status == "201" && *took >= HELD).count()
    }
}

pub(crate) fn ledger_deleted(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-ledger")?;
    let name = unheard_of("ledger");
    let names: Vec<String> = (0..LOAD).map(|thread| format!("{name}-{thread}")).collect();
    let orders = world.orders();
    let arguments: Vec<&str> = [&orders].into_iter().chain(&names).map(String::as_str).collect();
    let ticker = space.start(&Workload::new("ticker", "ticker.py", &arguments))?;
    names.iter().try_for_each(|name| goes_on(world, name).map(drop))?;

    // Asked to end, as by a drain of its node; then killed, as by the kernel.
    let uid = || said(&mut world.kubectl_system(["get", "pod", LEDGER, "--output=jsonpath={.metadata.uid}"]));
    let first = uid()?;
    said(&mut world.kubectl_system(["delete", "pod", LEDGER, "--wait=false"]))?;
    soon("the ledger has another pod", || Ok((uid()? != first).then_some(())))?;
    said(&mut world.kubectl_system(["wait", "pod", LEDGER, "--for=condition=Ready", "--timeout=120s"]))?;
    names.iter().try_for_each(|name| goes_on(world, name).map(drop))?;
    let id = said(&mut world.kubectl_system(["get", "pod", LEDGER, "--output=jsonpath={.status.containerStatuses[0].containerID}"]))?;
    world.cluster().signal_container(&id, "SIGKILL")?;
    let executed = names.iter().map(|name| goes_on(world, name)).sum::<Result<usize>>()?;

    let log = Log::of(&ticker)?;
    ensure!(log.held() > 0, "no call waited for the ledger: was it ever gone?");
    let other: Vec<_> = log.0.iter().filter(|(status, _)| status != "201").collect();
    ensure!(other.is_empty(), "answers other than 201: {other:?}");
    let told = format!("{executed} of {executed} once, {} held, {} refused and tried again", log.held(), log.1);
    Ok(Told::new(&format!("the ledger's pod deleted, then its container killed, under {LOAD} agents"), told))
}

pub(crate) fn operator_and_webhook_down(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-down")?;
    let (name, orders) = (unheard_of("down"), world.orders());
    let ticker = space.start(&Workload::new("ticker", "ticker.py", &[&orders, &name]))?;
    world.scale("deployment/kybernis-operator", 0)?;
    world.scale("deployment/kybernis-webhook", 0)?;
    goes_on(world, &name)?;

    let refused = space.try_pod(&Workload::new("asks", "idle.py", &[]))?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && why.contains("inject.kybernis.io"), "a pod that asked for a sidecar: {refused:?}");
    let other = space.try_pod(&Workload::new("other", "idle.py", &[]).bare())?;
    ensure!(other.status.success(), "another pod: {other:?}");
    space.wait("pod/other", "condition=Ready")?;

    world.scale("deployment/kybernis-operator", 1)?;
    world.scale("deployment/kybernis-webhook", 2)?;
    soon("pods that ask for a sidecar are taken again", || {
        Ok(space.try_pod(&Workload::new("asks", "idle.py", &[]))?.status.success().then_some(()))
    })?;
    space.wait("pod/asks", "condition=Ready")?;
    let executed = goes_on(world, &name)?;
    ensure!(ticker.sidecar_restarts()? == 0, "the agent's sidecar was started anew");
    let told = format!("{executed} of {executed} once; pod that asks refused, other pod runs");
    Ok(Told::new("operator and webhook scaled to 0, and back", told))
}
