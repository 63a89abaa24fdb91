//! Pods that are deleted in the middle of something.

use anyhow::{Context as _, Result, ensure};
use kybernis_pods::{Workload, World, soon, unheard_of};
use serde_json::json;

use crate::scenario::{Told, installed};

/// How long a pod may take to end.
const GRACE_SECONDS: u32 = 40;
/// How late an answer is, and how long a stream: shorter than that, and longer than asking for the pod's end takes.
const LATE_MS: u64 = 12_000;
const EVENTS: u32 = 120;

/// The app is asked to end, finishes what it is in the middle of, and tells the broker about it through its sidecar.
pub(crate) fn finishes(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-drain")?;
    let (stream, answer, orders) = (unheard_of("stream"), unheard_of("answer"), world.orders());
    let events = world.url(&format!("/v1/stream?events={EVENTS}&interval_ms=100&of={stream}"));
    world.fault("/v1/refunds", json!({"late": {"after_ms": LATE_MS}}))?;
    // By themselves: nobody starts another pod that would do the same again.
    let start = |name: &str, arguments: &[&str]| {
        let made = space.try_pod(&Workload::new(name, "closing.py", arguments).grace_seconds(GRACE_SECONDS))?;
        ensure!(made.status.success(), "{made:?}");
        Ok(())
    };
    start("stream", &["stream", &events, &orders, &stream])?;
    start("answer", &["answer", &world.url("/v1/refunds"), &orders, &answer])?;
    for (pod, name) in [("stream", &stream), ("answer", &answer)] {
        soon(&format!("the broker has the call of {name}"), || {
            Ok(world.broker("GET", "/requests", "")?.to_string().contains(name.as_str()).then_some(()))
        })?;
        ensure!(space.pod(pod).sidecar_restarts()? == 0, "the sidecar was started anew");
        space.pod(pod).delete()?;
    }
    for (name, came) in [(&stream, EVENTS.to_string()), (&answer, "201".to_owned())] {
        let wanted = format!("{name}-{came}-asked");
        let told = soon(&format!("{name} tells what came"), || Ok(world.books()?.found(&format!("{name}-")).map(str::to_owned)))?;
        ensure!(told == wanted, "the app told {told}, not {wanted}");
    }
    let executed = world.books()?.of(&answer);
    ensure!(executed == 1, "{answer} was executed {executed} times");
    let told = format!("1 of 1, answered 201; {EVENTS} of {EVENTS} events");
    Ok(Told::new("pods deleted with a stream and a slow answer under way", told))
}

/// The app is gone at once, and its sidecar stays for the answer: what was under way is on record as what it became, and the next pod
/// gets that answer.
pub(crate) fn dies(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-dies")?;
    let (name, report) = (unheard_of("dies"), unheard_of("report"));
    let (refunds, orders) = (world.url("/v1/refunds"), world.orders());
    world.fault("/v1/refunds", json!({"late": {"after_ms": LATE_MS}}))?;
    let workload = Workload::new("trader", "dying.py", &[&refunds, &name, &orders, &report]).grace_seconds(GRACE_SECONDS);
    space.deploy(&workload)?;
    soon("the broker has executed it", || Ok((world.books()?.of(&name) == 1).then_some(())))?;
    let pods = space.pods("trader")?;
    space.pod(pods.first().context("no pod")?).delete()?;
    let told = soon("the next pod tells what it heard", || Ok(world.books()?.found(&report).map(str::to_owned)))?;
    ensure!(told == format!("{report}-201"), "the next pod told {told}");
    let executed = world.books()?.of(&name);
    ensure!(executed == 1, "executed {executed} times");
    Ok(Told::new("a pod deleted whose app dies at once, with a slow answer under way", "1 of 1; the next pod: the same 201"))
}
