//! What a side effect costs over the call itself: two durable commits and little more; and that callers share commits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{micros, tell};
use crate::disk::Probe;
use crate::load::{Call, Crowd, Took, Way, count, median};
use crate::stage::Stage;
use crate::table::{Bound, Row, Table};

const WARM_UP: usize = 20;
/// Calls in a round at one client, on each side, and syncs of the disk.
const ALONE: usize = 100;
/// Clients at once, where commits are to be shared.
const MANY: usize = 64;
/// Calls of each of them in a round.
const EACH: usize = 20;
/// Rounds; medians count. Odd, so that there is one.
const ROUNDS: usize = 7;
/// The sync that an effect cannot do without: one before it goes out, one before its answer's end.
const COMMITS: u32 = 2;

/// Calls, and the appends that the ledger made meanwhile.
struct Figures {
    took: Took,
    appends: u64,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "appends of one run stay far below 2^52")]
    fn appends_each(&self) -> f64 {
        self.appends as f64 / count(self.took.calls)
    }
}

struct Round {
    direct: Took,
    sync: Duration,
    alone: Figures,
    many: Figures,
}

impl Round {
    fn added(&self) -> f64 {
        micros(self.alone.took.p50()) - micros(self.direct.p50())
    }
}

pub(super) async fn measure(stage: &Stage, table: &mut Table) -> Result<()> {
    tell("side effects");
    let mut probe = Probe::create(&stage.dir)?;
    let mut direct = Crowd::open(&Way::Direct, stage.far, 1).await?;
    let mut alone = Crowd::open(&stage.by_sidecar(), stage.far, 1).await?;
    let mut many = Crowd::open(&stage.by_sidecar(), stage.far, MANY).await?;
    for crowd in [&mut direct, &mut alone, &mut many] {
        crowd.run(WARM_UP, order).await?;
    }
    let mut rounds = Vec::with_capacity(ROUNDS);
    for number in 1..=ROUNDS {
        stage.governed.settled().await?;
        let round = Round {
            direct: direct.run(ALONE, order).await?,
            sync: probe.p50(ALONE)?,
            alone: figures(stage, &mut alone, ALONE).await?,
            many: figures(stage, &mut many, EACH).await?,
        };
        tell(format_args!(
            "  round {number}: fdatasync {:.0} µs; one client {:.0} µs, direct {:.0} µs, {:.2} appends each; {MANY} clients {:.0}/s, {:.2} appends each, one {:.0}/s",
            micros(round.sync),
            micros(round.alone.took.p50()),
            micros(round.direct.p50()),
            round.alone.appends_each(),
            round.many.took.rate(),
            round.many.appends_each(),
            round.alone.took.rate(),
        ));
        rounds.push(round);
    }
    let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of).collect()).context("no rounds");
    table.add(Row {
        measure: "side effect, one client: p50 added, less two fdatasync".to_owned(),
        governed: format!("{:.0} µs", middle(&|round| micros(round.alone.took.p50()))?),
        baseline: format!(
            "{:.0} µs direct, fdatasync {:.0} µs",
            middle(&|round| micros(round.direct.p50()))?,
            middle(&|round| micros(round.sync))?
        ),
        value: middle(&|round| round.added() - micros(round.sync * COMMITS))?,
        unit: " µs",
        // A time, however much of the disk is taken off it: on a machine half as fast it is twice as long.
        bound: Some(Bound::target_at_most(250.0)),
    });
    table.add(Row {
        measure: format!("side effect, {MANY} clients: fdatasync per effect"),
        governed: format!("{:.2}", middle(&|round| round.many.appends_each())?),
        baseline: format!("{:.2} at one client", middle(&|round| round.alone.appends_each())?),
        value: middle(&|round| round.many.appends_each() / round.alone.appends_each())?,
        unit: "×",
        bound: Some(Bound::gate_at_most(1.0 / 8.0)),
    });
    table.add(Row {
        measure: format!("side effect, {MANY} clients: throughput"),
        governed: format!("{:.0}/s", middle(&|round| round.many.took.rate())?),
        baseline: format!("{:.0}/s at one client", middle(&|round| round.alone.took.rate())?),
        value: middle(&|round| round.many.took.rate() / round.alone.took.rate())?,
        unit: "×",
        bound: Some(Bound::gate_at_least(3.0)),
    });
    Ok(())
}

async fn figures(stage: &Stage, crowd: &mut Crowd, each: usize) -> Result<Figures> {
    let before = stage.governed.appends()?;
    let took = crowd.run(each, order).await?;
    // Whatever else these calls made the ledger write counts too.
    stage.governed.settled().await?;
    Ok(Figures { took, appends: stage.governed.appends()? - before })
}

/// An order that nobody has placed before.
fn order() -> Call {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    Call::post("/v1/orders", format!(r#"{{"id":"order-{id}","symbol":"AAPL","side":"buy","qty":{},"price":190.5}}"#, id % 9999 + 1))
}
