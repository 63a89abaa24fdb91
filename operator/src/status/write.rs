//! Writes statuses by server-side apply, tells Events, and remembers what it wrote until the watch has caught up: a status that is
//! worked out from an old one must not look like a change.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::Recorder;
use serde_json::json;
use tokio::time::Instant;

use super::{Happened, Status, Told, View};
use crate::apply::{MANAGER, WRITES, in_time};
use crate::events::{self, About};
use crate::metrics::Metrics;
use crate::object::Object;

/// The writer.
pub(crate) struct Writer {
    client: kube::Client,
    recorder: Recorder,
    /// By uid: which state was written upon, and what.
    written: HashMap<String, (String, Status)>,
}

/// How a round of writing went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) all_written: bool,
    /// When to look again.
    pub(crate) again: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(client: kube::Client, recorder: Recorder) -> Self {
        Self { client, recorder, written: HashMap::new() }
    }

    /// Writes what is not there yet.
    pub(crate) async fn write(&mut self, view: &View<'_>, metrics: &Metrics) -> Round {
        let mut again: Option<Instant> = None;
        let mut due: Vec<(Arc<Object>, Told)> = Vec::new();
        let mut kept = HashMap::with_capacity(self.written.len());
        for (object, fault) in &view.validated.objects {
            let known = self.written.remove(&object.uid).filter(|(version, _)| *version == object.version);
            let before = known.as_ref().map_or_else(|| Status::of(object), |(_, status)| status.clone());
            if let Some(known) = known {
                kept.insert(object.uid.clone(), known);
            }
            let told = view.tell(object, fault.as_ref(), &before);
            again = [again, told.again].into_iter().flatten().min();
            if told.status != before {
                due.push((Arc::clone(object), told));
            }
        }
        self.written = kept;
        let (client, recorder) = (&self.client, &self.recorder);
        let mut writes = futures::stream::iter(due)
            .map(|(object, told)| async move {
                let written = in_time(patch(client, &object, &told.status)).await;
                metrics.status_writes.count(&written);
                if written.is_ok() {
                    tell(recorder, &object, &told.happened).await;
                }
                (object, told.status, written)
            })
            .buffer_unordered(WRITES);
        let mut all_written = true;
        while let Some((object, status, written)) = writes.next().await {
            match written {
                Ok(()) => {
                    self.written.insert(object.uid.clone(), (object.version.clone(), status));
                }
                Err(error) => {
                    tracing::warn!(object = %object.key, %error, "a status cannot be written");
                    all_written = false;
                }
            }
        }
        Round { all_written, again }
    }
}

/// Puts the status into force; of an object that is gone, or another of its name, there is nothing to say.
async fn patch(client: &kube::Client, object: &Object, status: &Status) -> Result<(), kube::Error> {
    let resource = object.key.kind.resource();
    let body = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": object.key.name, "namespace": object.key.namespace, "uid": object.uid},
        "status": status,
    });
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &object.key.namespace, &resource);
    match api.patch_status(&object.key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || (status.code == 409 && status.reason == "Conflict") => Ok(()),
        Err(error) => Err(error),
    }
}

async fn tell(recorder: &Recorder, object: &Object, happened: &[Happened]) {
    let resource = object.key.kind.resource();
    let about = About { namespace: &object.key.namespace, name: &object.key.name, uid: &object.uid };
    for Happened { warning, reason, note } in happened {
        events::tell(recorder, &resource, about, *warning, reason.as_str(), note).await;
    }
}

#[cfg(test)]
mod tests;
