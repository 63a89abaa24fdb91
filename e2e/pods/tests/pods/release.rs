//! Releases come and go.

use anyhow::{Context as _, Result, ensure};
use kybernis_pods::{Agent, Release, Workload, World, said, soon, unheard_of};
use serde_json::json;

use crate::scenario::{Told, goes_on, installed};

fn sidecar_image(agent: &Agent<'_>) -> Result<String> {
    agent.field("{.spec.initContainers[?(@.name=='kybernis-proxy')].image}")
}

pub(crate) fn upgrade(world: &World) -> Result<Told> {
    world.install(Release::Earlier)?;
    let space = world.space("life-upgrade")?;
    let (name, doubt, orders, refunds) = (unheard_of("upgrade"), unheard_of("doubt"), world.orders(), world.url("/v1/refunds"));
    space.deploy(&Workload::new("ticker", "ticker.py", &[&orders, &name]))?;
    let trader = space.start(&Workload::new("trader", "idle.py", &[]))?;
    let ticker = space.agent("ticker")?;
    world.fault("/v1/refunds", json!("reset"))?;
    let heard = trader.told("order.py", &[&refunds, &doubt])?;
    ensure!(heard == "423", "before the upgrade: {heard}");
    goes_on(world, &name)?;

    world.install(Release::Today)?;
    goes_on(world, &name)?;
    let fresh = space.start(&Workload::new("fresh", "idle.py", &[]))?;
    for (agent, release) in [(&ticker, Release::Earlier), (&trader, Release::Earlier), (&fresh, Release::Today)] {
        let image = sidecar_image(agent)?;
        ensure!(image.ends_with(&format!(":{}", release.tag())), "{} has the sidecar {image}", agent.pod());
        ensure!(agent.sidecar_restarts()? == 0, "the sidecar of {} was started anew", agent.pod());
    }
    let heard = trader.told("order.py", &[&refunds, &doubt])?;
    ensure!(heard == "423", "after the upgrade: {heard}");
    let (placed, new) = (goes_on(world, &name)?, unheard_of("new"));
    let heard = fresh.told("order.py", &[&orders, &new])?;
    let books = world.books()?;
    ensure!(heard == "201" && books.of(&new) == 1, "a new pod heard {heard}; executed {} times", books.of(&new));
    ensure!(books.of(&doubt) == 1, "what was in doubt was executed {} times", books.of(&doubt));
    let told = format!("{0} of {0} once; in doubt before and after", placed + 2);
    Ok(Told::new("`helm upgrade` from an older chart with agents running", told))
}

/// By both helms; and not while nobody injects, else a good end would say nothing.
pub(crate) fn tested(world: &World) -> Result<Told> {
    installed(world)?;
    let webhook = "deployment/kybernis-webhook";
    world.scale(webhook, 0)?;
    let without = world.helm_test(4);
    // It comes back whatever became of that: the scenarios after this one need it.
    world.scale(webhook, 2)?;
    let without = without?;
    let why = String::from_utf8_lossy(&without.stderr).into_owned();
    ensure!(!without.status.success() && why.contains("inject.kybernis.io"), "`helm test` without a webhook: {without:?}");
    for major in [3, 4] {
        let heard = world.helm_test(major)?;
        let told = String::from_utf8_lossy(&heard.stdout).into_owned();
        ensure!(heard.status.success() && told.contains("Succeeded"), "`helm test` of helm {major}: {heard:?}");
        soon("the test's namespace is gone", || {
            let left = said(&mut world.kubectl(["get", "namespace/kybernis-helm-test", "--ignore-not-found", "--output=name"]))?;
            Ok(left.is_empty().then_some(()))
        })?;
    }
    Ok(Told::new("`helm test` by helm 3 and 4, and while the webhook is at 0", "none; succeeds twice, and fails without a webhook"))
}

/// Whoever ran under a sidecar is refused from now on, since nobody keeps books; every other pod starts.
pub(crate) fn uninstall(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-uninstalled")?;
    let (name, orders) = (unheard_of("uninstalled"), world.orders());
    let ticker = space.start(&Workload::new("ticker", "ticker.py", &[&orders, &name]))?;
    goes_on(world, &name)?;
    world.uninstall()?;
    let left = said(&mut world.kubectl(["get", "mutatingwebhookconfigurations,validatingwebhookconfigurations", "--output=name"]))?;
    ensure!(!left.contains("kybernis"), "left: {left}");
    for workload in [Workload::new("asks", "idle.py", &[]), Workload::new("other", "idle.py", &[]).bare()] {
        // An API server holds on to a deleted ValidatingAdmissionPolicy for the second until it looks at its policies again.
        soon(&format!("the pod {} is let in", workload.name()), || Ok(space.try_pod(&workload)?.status.success().then_some(())))?;
        space.wait(&format!("pod/{}", workload.name()), "condition=Ready")?;
    }
    // Refused at least once: from there on nothing leaves.
    soon("the agent is refused", || {
        Ok(ticker.log()?.lines().any(|line| line.starts_with("again") && line.ends_with("503")).then_some(()))
    })?;
    let executed = world.books()?.each_once(&name)?;
    let last = ticker.log()?.lines().rev().find(|line| line.starts_with("again")).map(str::to_owned).context("no refusal")?;
    ensure!(last.contains(&format!("{name}-{} ", executed + 1)), "{executed} were executed, and the last refusal is: {last}");
    let told = format!("{executed} of {executed} once, none without the ledger; both pods run");
    Ok(Told::new("`helm uninstall` with an agent running, then pods that ask for a sidecar and pods that do not", told))
}
