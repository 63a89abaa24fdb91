//! Which sidecars are live, and what they run with.

use std::collections::BTreeMap;

use kybernis_core::policy::Labels;
use kybernis_proto::v1;
use kybernis_proto::v1::sidecar_update::Update;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// A live sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub(crate) agent: String,
    pub(crate) labels: Labels,
    /// The set that it runs with; empty before the first.
    pub(crate) digest: Vec<u8>,
    /// Why it could not take the offered set; empty when it could.
    pub(crate) error: String,
    /// Since when we know of it.
    pub(crate) since: Instant,
}

/// All of them. As many as there are pods; the ledger's own list is as long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fleet {
    tenants: BTreeMap<String, BTreeMap<String, Sidecar>>,
}

impl Fleet {
    /// Takes one message in; whether it changed anything.
    pub(crate) fn apply(&mut self, message: v1::SidecarUpdate, now: Instant) -> bool {
        match message.update {
            Some(Update::Live(v1::LiveSidecar { tenant, instance, agent, labels, digest, error })) => {
                let seats = self.tenants.entry(tenant).or_default();
                let before = seats.get(&instance);
                let since = before.map_or(now, |before| before.since);
                let sidecar = Sidecar { agent, labels: labels.into_iter().collect(), digest, error, since };
                let changed = before != Some(&sidecar);
                seats.insert(instance, sidecar);
                changed
            }
            Some(Update::Gone(v1::GoneSidecar { tenant, instance })) => {
                let Some(seats) = self.tenants.get_mut(&tenant) else { return false };
                let gone = seats.remove(&instance).is_some();
                if seats.is_empty() {
                    self.tenants.remove(&tenant);
                }
                gone
            }
            Some(Update::Synced(_)) | None => false,
        }
    }

    /// A tenant's sidecars by their pods' uids.
    pub(crate) fn of(&self, tenant: &str) -> impl Iterator<Item = (&str, &Sidecar)> {
        self.tenants.get(tenant).into_iter().flatten().map(|(instance, sidecar)| (instance.as_str(), sidecar))
    }

    /// Every tenant that has one.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.keys().map(String::as_str)
    }
}

/// Reads until the ledger has told of everybody.
pub(super) async fn synced(stream: &mut Streaming<v1::SidecarUpdate>) -> Result<Fleet, Status> {
    let mut fleet = Fleet::default();
    while let Some(message) = stream.message().await? {
        if matches!(message.update, Some(Update::Synced(_))) {
            return Ok(fleet);
        }
        fleet.apply(message, Instant::now());
    }
    Err(Status::unavailable("the stream ended before everybody was told"))
}
