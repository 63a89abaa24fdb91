//! What people are told beside a status (events.k8s.io/v1). An Event that is lost is no reason to do anything again.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::ApiResource;
use kube::runtime::events::{Event, EventType, Recorder};

use crate::apply::in_time;
use crate::status::shortened;

/// Longest note (events.k8s.io/v1).
const NOTE_MAX: usize = 1000;
/// What all Events of ours are about.
const ACTION: &str = "Reconcile";

/// The object that an Event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
}

/// Tells.
pub(crate) async fn tell(recorder: &Recorder, resource: &ApiResource, about: About<'_>, warning: bool, reason: &str, note: &str) {
    let reference = ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        namespace: Some(about.namespace.to_owned()),
        name: Some(about.name.to_owned()),
        uid: Some(about.uid.to_owned()),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.to_owned(),
        note: Some(shortened(note.to_owned(), NOTE_MAX)),
        action: ACTION.to_owned(),
        secondary: None,
    };
    if let Err(error) = in_time(recorder.publish(&event, &reference)).await {
        tracing::debug!(kind = resource.kind, namespace = about.namespace, name = about.name, %error, "an Event cannot be written");
    }
}
