//! Apps that call from their first instruction.

use anyhow::{Result, ensure};
use kybernis_pods::{Workload, World, soon, unheard_of};

use crate::scenario::{Told, installed};

/// While the ledger is away no sidecar is ready, and until then nothing of the app runs, its init containers included.
pub(crate) fn before_the_network(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-start")?;
    let (init, app, orders) = (unheard_of("init"), unheard_of("app"), world.orders());
    world.scale("statefulset/kybernis-ledger", 0)?;
    let early = early(world, &space, [&init, &app], &orders);
    world.scale("statefulset/kybernis-ledger", 1)?;
    early?;
    space.agent("eager")?;
    for order in [&init, &app] {
        soon(&format!("{order} is executed"), || Ok((world.books()?.of(order) > 0).then_some(())))?;
        let executed = world.books()?.of(order);
        ensure!(executed == 1, "{order} was executed {executed} times");
    }
    Ok(Told::new("a pod whose init container and app call at once, started while the ledger is away", "0 meanwhile, 2 of 2 once after"))
}

fn early(world: &World, space: &kybernis_pods::Space<'_>, [init, app]: [&str; 2], orders: &str) -> Result<()> {
    let eager = Workload::new("eager", "order.py", &[orders, app, "stay"]).after("order.py", &[orders, init]);
    space.deploy(&eager)?;
    let status = |container: &str, field: &str| {
        let path = format!("{{.items[*].status.initContainerStatuses[?(@.name=='{container}')].{field}}}");
        space.field("pods", &path)
    };
    soon("the sidecar runs", || Ok((!status("kybernis-proxy", "state.running.startedAt")?.is_empty()).then_some(())))?;
    ensure!(status("kybernis-proxy", "started")? == "false", "the sidecar says that it is ready without a ledger");
    ensure!(!status("before", "state.waiting.reason")?.is_empty(), "the app's init container does not wait for the sidecar");
    let books = world.books()?;
    ensure!(books.of(init) + books.of(app) == 0, "an order left the pod before its sidecar was ready");
    Ok(())
}
