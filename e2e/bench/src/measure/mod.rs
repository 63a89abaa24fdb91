//! What is measured, in order: memory at rest, reads, effects, memory under way; then admission, and then the operator.

mod admission;
mod effects;
mod memory;
mod operator;
mod reads;

use std::time::Duration;

use anyhow::Result;

use crate::RunArgs;
use crate::awake::Awake;
use crate::stage::Stage;
use crate::table::Table;

/// A part that can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// CPU of reads, in plain text
    Reads,
    /// CPU of reads, over intercepted TLS
    Tls,
    /// Latency, commits and throughput of effects
    Effects,
    /// Resident memory
    Memory,
    /// CPU and latency of admission; a table of its own
    Webhook,
    /// How fast and how large the operator is; a table of its own
    Operator,
}

/// Those that share a table.
const CALLS: [Part; 4] = [Part::Reads, Part::Tls, Part::Effects, Part::Memory];

/// Measures what is wanted; each table is `done` as soon as it is.
pub(crate) async fn all(args: &RunArgs, done: &mut dyn FnMut(&Table) -> Result<()>) -> Result<()> {
    let awake = Awake::keep().inspect_err(|error| tell(format_args!("the processors may sleep between two steps: {error}"))).ok();
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    if CALLS.into_iter().any(wanted) {
        let mut table = Table::of("bench", awake.is_some());
        calls(args, &wanted, &mut table).await?;
        done(&table)?;
    }
    if wanted(Part::Webhook) {
        let mut table = Table::of("bench webhook", awake.is_some());
        admission::measure(args, &mut table).await?;
        done(&table)?;
    }
    if wanted(Part::Operator) {
        let mut table = Table::of("bench operator", awake.is_some());
        operator::measure(args, &mut table).await?;
        done(&table)?;
    }
    Ok(())
}

/// Agents' calls: sets the stage, measures, clears the stage.
async fn calls(args: &RunArgs, wanted: &dyn Fn(Part) -> bool, table: &mut Table) -> Result<()> {
    let stage = Stage::set(&args.kybernis, args.data.as_deref()).await?;
    if wanted(Part::Memory) {
        memory::at_rest(&stage, table)?;
    }
    if wanted(Part::Reads) {
        reads::in_plain_text(&stage, table).await?;
    }
    if wanted(Part::Tls) {
        reads::over_tls(&stage, table).await?;
    }
    if wanted(Part::Effects) {
        effects::measure(&stage, table).await?;
    }
    if wanted(Part::Memory) {
        memory::under_way(&stage, table).await?;
    }
    stage.clear().await
}

/// Says what is going on: parts take a while.
fn tell(what: impl std::fmt::Display) {
    eprintln!("bench: {what}");
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "memory stays far below 2^52 bytes")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A time with three digits or so.
fn shown(time: Duration) -> String {
    match micros(time) {
        micros if micros < 10_000.0 => format!("{micros:.0} µs"),
        micros if micros < 100_000.0 => format!("{:.1} ms", micros / 1e3),
        micros if micros < 10_000_000.0 => format!("{:.0} ms", micros / 1e3),
        micros => format!("{:.1} s", micros / 1e6),
    }
}
