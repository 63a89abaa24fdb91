//! What is measured, in order: memory at rest, reads, effects, memory under way.

mod effects;
mod memory;
mod reads;

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
}

/// Sets the stage, measures, clears the stage.
pub(crate) async fn all(args: &RunArgs) -> Result<Table> {
    let awake = Awake::keep().inspect_err(|error| tell(format_args!("the processors may sleep between two steps: {error}"))).ok();
    let stage = Stage::set(&args.kybernis, args.data.as_deref()).await?;
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut table = Table::of(awake.is_some());
    if wanted(Part::Memory) {
        memory::at_rest(&stage, &mut table)?;
    }
    if wanted(Part::Reads) {
        reads::in_plain_text(&stage, &mut table).await?;
    }
    if wanted(Part::Tls) {
        reads::over_tls(&stage, &mut table).await?;
    }
    if wanted(Part::Effects) {
        effects::measure(&stage, &mut table).await?;
    }
    if wanted(Part::Memory) {
        memory::under_way(&stage, &mut table).await?;
    }
    stage.clear().await?;
    Ok(table)
}

/// Says what is going on: parts take a while.
fn tell(what: impl std::fmt::Display) {
    eprintln!("bench: {what}");
}
