//! The sidecar's resident memory: at rest, over many requests, and through a body far larger than any buffer.

use anyhow::{Result, ensure};

use super::{mib, tell};
use crate::body::Repeated;
use crate::load::{Call, Client, Crowd, count};
use crate::stage::Stage;
use crate::table::{Bound, Row, Table};

/// Connections of the many requests.
const CLIENTS: usize = 16;
/// Calls of each before the first look: pools and allocators have their size then.
const WARM_UP: usize = 625;
/// Calls of each: 100,000 in all.
const EACH: usize = 6250;
/// The large body.
const BODY_BYTES: u64 = 1 << 30;
/// What counts as flat.
const FLAT_MIB: f64 = 4.0;

/// Before the first request. Must be first.
pub(super) fn at_rest(stage: &Stage, table: &mut Table) -> Result<()> {
    let resident = mib(stage.governed.sidecar.resident()?);
    table.add(Row {
        measure: "sidecar at rest: resident memory".to_owned(),
        governed: format!("{resident:.1} MiB"),
        baseline: format!("{:.1} MiB forward, {:.1} MiB intercept", mib(stage.forward.resident()?), mib(stage.intercept.resident()?)),
        value: resident,
        unit: " MiB",
        bound: Some(Bound::target_at_most(10.0)),
    });
    Ok(())
}

/// Over many requests, and through a large body.
pub(super) async fn under_way(stage: &Stage, table: &mut Table) -> Result<()> {
    tell("memory over 100,000 reads");
    let sidecar = &stage.governed.sidecar;
    let mut crowd = Crowd::open(&stage.by_sidecar(), stage.far, CLIENTS).await?;
    crowd.run(WARM_UP, read).await?;
    stage.governed.settled().await?;
    let before = sidecar.resident()?;
    let took = crowd.run(EACH, read).await?;
    stage.governed.settled().await?;
    flat(table, &format!("{:.0} reads", count(took.calls)), before, sidecar.resident()?);

    tell("memory through 1 GiB each way");
    let mut client = Client::open(&stage.by_sidecar(), stage.far).await?;
    sidecar.forget_peak()?;
    let before = sidecar.resident()?;
    let length = client.call(Call::get(format!("/stream/{BODY_BYTES}"))).await?;
    ensure!(length == BODY_BYTES, "the answer had {length} bytes");
    flat(table, "an answer of 1 GiB, peak", before, sidecar.peak()?);
    sidecar.forget_peak()?;
    let before = sidecar.resident()?;
    client.call(Call { method: http::Method::POST, path: "/upload".to_owned(), body: Repeated::zeros(BODY_BYTES) }).await?;
    flat(table, "a request of 1 GiB, peak", before, sidecar.peak()?);
    Ok(())
}

fn flat(table: &mut Table, what: &str, before: u64, after: u64) {
    table.add(Row {
        measure: format!("sidecar, {what}: growth"),
        governed: format!("{:.1} MiB", mib(after)),
        baseline: format!("{:.1} MiB before", mib(before)),
        value: mib(after) - mib(before),
        unit: " MiB",
        bound: Some(Bound::target_at_most(FLAT_MIB)),
    });
}

fn read() -> Call {
    Call::get("/items/1".to_owned())
}
