//! The fourth phase: objects are made and removed. A gate's own object is never changed but in its status.

use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams, Preconditions};
use kube::runtime::events::Recorder;
use kybernis_crds::kinds;

use super::object::Found;
use super::validate::Why;
use crate::apply::{MANAGER, WRITES, WriteError, in_time};
use crate::events;
use crate::ledger::Gate;
use crate::metrics::Metrics;
use crate::watch::gate;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Objects that were made.
    pub(super) made: Vec<(Found, Arc<Gate>)>,
    /// Something is left to do.
    pub(super) failed: bool,
}

/// Makes the objects.
pub(super) async fn make(client: &kube::Client, objects: Vec<(Arc<Gate>, kinds::Gate)>, metrics: &Metrics) -> Applied {
    let mut writes = futures::stream::iter(objects)
        .map(|(gate, object)| async move {
            let made = create(client, &object).await;
            metrics.gate_writes.count(&made);
            (gate, made)
        })
        .buffer_unordered(WRITES);
    let mut applied = Applied::default();
    while let Some((gate, made)) = writes.next().await {
        match made {
            Ok(made) => applied.made.extend(made.map(|found| (found, gate))),
            Err(error) => {
                tracing::warn!(gate = %gate.place, %error, "a Gate cannot be made");
                applied.failed = true;
            }
        }
    }
    applied
}

/// `None` where there is one already, or its namespace is gone: the watches will tell.
async fn create(client: &kube::Client, object: &kinds::Gate) -> Result<Option<Found>, WriteError> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &gate());
    let body: DynamicObject = serde_json::to_value(object).and_then(serde_json::from_value).map_err(kube::Error::SerdeError)?;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match in_time(api.create(&params, &body)).await {
        Ok(made) => Ok(Found::read(&made)),
        Err(WriteError::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes objects, and says why. Whether all are gone now.
pub(super) async fn remove(client: &kube::Client, recorder: &Recorder, surplus: Vec<(Found, Why)>, metrics: &Metrics) -> bool {
    let mut writes = futures::stream::iter(surplus)
        .map(|(found, why)| async move {
            let removed = delete(client, &found).await;
            metrics.gate_writes.count(&removed);
            if matches!(removed, Ok(true))
                && let Some((reason, note)) = told(why)
            {
                tracing::warn!(gate = %found.place, note, "a Gate was removed");
                events::tell(recorder, &gate(), found.about(), true, reason, note).await;
            }
            (found, removed)
        })
        .buffer_unordered(WRITES);
    let mut all_removed = true;
    while let Some((found, removed)) = writes.next().await {
        if let Err(error) = removed {
            tracing::warn!(gate = %found.place, %error, "a Gate cannot be removed");
            all_removed = false;
        }
    }
    all_removed
}

/// Removes this very object; `false` where it is gone, or another.
async fn delete(client: &kube::Client, found: &Found) -> Result<bool, WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &found.place.namespace, &gate());
    let preconditions = Preconditions { uid: Some(found.uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match in_time(api.delete(&found.place.name, &params)).await {
        Ok(_) => Ok(true),
        Err(WriteError::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The Event's reason and note.
const fn told(why: Why) -> Option<(&'static str, &'static str)> {
    match why {
        Why::Over => None,
        Why::Unknown => Some(("GateUnknown", "the ledger knows no such gate, so this Gate was removed")),
        Why::Differs => {
            Some(("GateDiffers", "it did not say what the ledger's gate of its name binds, so it was removed and is made anew"))
        }
    }
}
