//! Writes the statuses of gates as wholes, so that nothing stays of what somebody else has written there, and remembers what it wrote
//! until the watch has caught up.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kybernis_crds::kinds::GateStatus;
use serde_json::{Value, json};

use super::status;
use crate::apply::{MANAGER, WRITES, WriteError, in_time};
use crate::gates::object::Found;
use crate::ledger::Gate;
use crate::metrics::Metrics;
use crate::watch::gate;

/// The writer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// By uid.
    written: HashMap<String, Written>,
}

#[derive(Debug)]
struct Written {
    /// The state that the watch still had.
    upon: String,
    /// The state that it became.
    version: String,
    status: GateStatus,
}

impl Writer {
    /// Writes what is not there yet. Whether all is there now.
    pub(crate) async fn write(&mut self, client: &kube::Client, shown: Vec<(Found, Arc<Gate>)>, now: Timestamp, metrics: &Metrics) -> bool {
        let mut due: Vec<(Found, String, GateStatus)> = Vec::new();
        let mut kept = HashMap::with_capacity(self.written.len());
        for (mut found, gate) in shown {
            let known = self.written.remove(&found.uid).filter(|written| written.upon == found.version);
            let before = known.as_ref().map_or(&found.status, |written| &written.status);
            let status = status(&gate, found.generation, before, now);
            if status != *before {
                // The watch may lag; what is written is written upon the last state that is known.
                let upon = std::mem::take(&mut found.version);
                found.version = known.map_or_else(|| upon.clone(), |written| written.version);
                due.push((found, upon, status));
            } else if let Some(known) = known {
                kept.insert(found.uid, known);
            }
        }
        self.written = kept;
        let mut writes = futures::stream::iter(due)
            .map(|(found, upon, status)| async move {
                let written = patch(client, &found, &status).await;
                metrics.gate_writes.count(&written);
                (found, upon, status, written)
            })
            .buffer_unordered(WRITES);
        let mut all_written = true;
        while let Some((found, upon, status, written)) = writes.next().await {
            match written {
                Ok(Some(version)) => {
                    self.written.insert(found.uid, Written { upon, version, status });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(gate = %found.place, %error, "a Gate's status cannot be written");
                    all_written = false;
                }
            }
        }
        all_written
    }
}

/// Puts the status into force upon this very state of the object, and says which state that makes; `None` where it has moved on: the
/// watch tells, and it is looked at again.
async fn patch(client: &kube::Client, found: &Found, status: &GateStatus) -> Result<Option<String>, WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &found.place.namespace, &gate());
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match in_time(api.patch_status(&found.place.name, &params, &Patch::Merge(&body(found, status)))).await {
        Ok(written) => Ok(written.metadata.resource_version),
        Err(WriteError::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A merge patch (RFC 7386) replaces lists as wholes and takes away what is null.
fn body(found: &Found, status: &GateStatus) -> Value {
    let GateStatus { phase, conditions, decisions, ended_at } = status;
    json!({
        "metadata": {"resourceVersion": found.version},
        "status": {"phase": phase, "conditions": conditions, "decisions": decisions, "endedAt": ended_at},
    })
}
