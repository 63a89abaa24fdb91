//! The story in a cluster, by the commands that people type: an unchanged Deployment, one annotation, and people who decide.

mod acts;
mod stage;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use self::stage::Stage;

/// Plays it; whether nothing was executed more or less often than intended.
pub(crate) fn play(programs: &Path) -> Result<bool> {
    let mut stage = Stage::set(programs).context("the stage could not be set")?;
    let began = Instant::now();
    acts::play(&mut stage)?;
    stage.close(began.elapsed());
    Ok(stage.books.all_as_intended())
}
