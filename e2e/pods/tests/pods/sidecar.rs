//! The sidecar dies, and the app goes on.

use anyhow::{Result, ensure};
use kybernis_pods::{Workload, World, soon, unheard_of};
use serde_json::json;

use crate::scenario::{Told, installed};

/// For a sidecar that is at rest, and little more.
const MEMORY_LIMIT: &str = "48Mi";

/// It has used up its memory, and the kernel kills it, in the middle of a call over TLS. One process of the app lives through all of it,
/// with the roots that it loaded before.
pub(crate) fn killed(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("life-sidecar")?;
    let agent = space.start(&Workload::new("trader", "idle.py", &[]).annotation("proxy-memory-limit", MEMORY_LIMIT))?;
    let mut desk = agent.talk("desk.py", &[])?;
    ensure!(desk.hear()? == "ready", "the client did not start");
    let (before, broken, after) = (unheard_of("before"), unheard_of("broken"), unheard_of("after"));
    let (orders, refunds) = (world.secure_url("/v1/orders"), world.secure_url("/v1/refunds"));
    let placed = desk.ask(&format!("{orders} {before}"))?;
    ensure!(placed == "201", "before: {placed}");

    world.fault("/v1/refunds", json!({"hang": {"for_ms": 300_000}}))?;
    desk.say(&format!("{refunds} {broken}"))?;
    soon("the broker has executed it", || Ok((world.books()?.of(&broken) == 1).then_some(())))?;
    let crowd = agent.told("crowd.py", &[])?;
    let heard = desk.hear()?;
    ensure!(heard.parse::<u16>().is_err(), "the call that was cut got an answer: {heard}");
    soon("the sidecar is back", || Ok((agent.sidecar_restarts()? == 1).then_some(())))?;
    let ended_by = agent.sidecar_ended_by()?;
    ensure!(crowd == "gone" && ended_by == "OOMKilled", "{crowd}: the sidecar ended by {ended_by}");

    // Until its lease has ended it is in flight; then nobody knows.
    let mut heard_of = Vec::new();
    soon("the cut call is in doubt", || {
        let answer = desk.ask(&format!("{refunds} {broken}"))?;
        heard_of.push(answer.clone());
        Ok((answer == "423").then_some(()))
    })?;
    ensure!(heard_of.iter().all(|answer| answer == "423" || answer == "409" || answer.ends_with("Error")), "heard {heard_of:?}");
    let placed = desk.ask(&format!("{orders} {after}"))?;
    ensure!(placed == "201", "after: {placed}");
    let books = world.books()?;
    for order in [&before, &broken, &after] {
        ensure!(books.of(order) == 1, "{order} was executed {} times", books.of(order));
    }
    ensure!(agent.sidecar_restarts()? == 1, "the sidecar was started anew more than once");
    Ok(Told::new(
        "kybernis-proxy killed for want of memory with an HTTPS call under way; the same process goes on",
        "3 of 3 once; the cut one: 423",
    ))
}
