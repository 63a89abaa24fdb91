//! CPU per read: the sidecar's against a minimal proxy's, round by round, each round both, in turns.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{micros, tell};
use crate::load::{Call, Crowd, Took, Way, median};
use crate::process::Process;
use crate::stage::Stage;
use crate::table::{Bound, Row, Table};

/// Enough for both cores, few enough that a connection is seldom idle.
const CLIENTS: usize = 16;
/// Calls of one client before anything is measured: connections, leaves, allocators, caches.
const WARM_UP: usize = 200;
/// Calls of one client in a round.
const EACH: usize = 1000;
/// Rounds; the median of their ratios counts. Odd, so that there is one.
const ROUNDS: usize = 7;

/// Over kept-alive HTTP/1.1.
pub(super) async fn in_plain_text(stage: &Stage, table: &mut Table) -> Result<()> {
    tell("reads over kept-alive HTTP/1.1");
    let baseline = Side { way: stage.by_forward(), process: &stage.forward };
    let governed = Side { way: stage.by_sidecar(), process: &stage.governed.sidecar };
    compare(stage, stage.far, baseline, governed, ("read, kept-alive HTTP/1.1", 1.25), table).await
}

/// Over intercepted TLS.
pub(super) async fn over_tls(stage: &Stage, table: &mut Table) -> Result<()> {
    tell("reads over intercepted TLS");
    let baseline = Side { way: stage.by_intercept(), process: &stage.intercept };
    let governed = Side { way: stage.by_sidecar_over_tls(), process: &stage.governed.sidecar };
    compare(stage, stage.far_tls, baseline, governed, ("read, intercepted TLS", 1.15), table).await
}

/// One of the two that are compared.
struct Side<'s> {
    way: Way,
    process: &'s Process,
}

/// What one round gave: CPU and latency of a call.
struct Figures {
    cpu: Duration,
    took: Took,
    ledger: Duration,
}

async fn compare(
    stage: &Stage,
    far: SocketAddr,
    baseline: Side<'_>,
    governed: Side<'_>,
    (name, most): (&str, f64),
    table: &mut Table,
) -> Result<()> {
    let mut crowds = [Crowd::open(&baseline.way, far, CLIENTS).await?, Crowd::open(&governed.way, far, CLIENTS).await?];
    for crowd in &mut crowds {
        crowd.run(WARM_UP, read).await?;
    }
    let [plain, ruled] = &mut crowds;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        // In turns, so that a machine that slows down or speeds up favours neither.
        let (first, second) = if round % 2 == 0 {
            let first = figures(stage, &baseline, plain).await?;
            (first, figures(stage, &governed, ruled).await?)
        } else {
            let second = figures(stage, &governed, ruled).await?;
            (figures(stage, &baseline, plain).await?, second)
        };
        let (a, b) = (first.cpu.as_secs_f64() * 1e6, second.cpu.as_secs_f64() * 1e6);
        tell(format_args!("  round {}: baseline {a:.1} µs, governed {b:.1} µs, ratio {:.2}", round + 1, b / a));
        rounds.push((first, second));
    }
    let middle = |of: &dyn Fn(&(Figures, Figures)) -> f64| median(rounds.iter().map(of).collect()).context("no rounds");
    table.add(Row {
        measure: format!("{name}: CPU per request"),
        governed: format!("{:.1} µs", middle(&|(_, governed)| micros(governed.cpu))?),
        baseline: format!("{:.1} µs", middle(&|(baseline, _)| micros(baseline.cpu))?),
        value: middle(&|(baseline, governed)| governed.cpu.as_secs_f64() / baseline.cpu.as_secs_f64())?,
        unit: "×",
        bound: Some(Bound::gate_at_most(most)),
    });
    table.add(Row {
        measure: format!("{name}: p50 at {CLIENTS} clients"),
        governed: format!("{:.0} µs", middle(&|(_, governed)| micros(governed.took.p50()))?),
        baseline: format!("{:.0} µs", middle(&|(baseline, _)| micros(baseline.took.p50()))?),
        value: middle(&|(baseline, governed)| governed.took.p50().as_secs_f64() / baseline.took.p50().as_secs_f64())?,
        unit: "×",
        bound: None,
    });
    table.add(Row {
        measure: format!("{name}: the ledger's CPU per request"),
        governed: String::new(),
        baseline: String::new(),
        value: middle(&|(_, governed)| micros(governed.ledger))?,
        unit: " µs",
        bound: None,
    });
    let dropped = stage.governed.dropped().await?;
    if dropped > 0 {
        // Their delivery cost nothing: the figures above flatter.
        tell(format_args!("the ledger did not keep up: {dropped} spans were dropped, and their delivery is missing above"));
    }
    Ok(())
}

async fn figures(stage: &Stage, side: &Side<'_>, crowd: &mut Crowd) -> Result<Figures> {
    let (before, ledger_before) = (side.process.cpu()?, stage.governed.ledger.cpu()?);
    let took = crowd.run(EACH, read).await?;
    stage.governed.settled().await?;
    let calls = u32::try_from(took.calls)?;
    Ok(Figures { cpu: (side.process.cpu()? - before) / calls, ledger: (stage.governed.ledger.cpu()? - ledger_before) / calls, took })
}

fn read() -> Call {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Call::get(format!("/items/{}?fields=all", NEXT.fetch_add(1, Ordering::Relaxed)))
}
