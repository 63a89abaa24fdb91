//! The two webhook configurations: whatever their entries' `caBundle` is, it is mended to ours. They are handled as raw JSON, so that
//! fields of newer clusters survive.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{FIELD_MANAGER, told};
use crate::server::stored::ClusterError;

const KINDS: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
/// Tries against somebody who writes at the same time; the next round tries again.
const TRIES: usize = 4;

pub(crate) struct Configurations {
    configurations: [(Api<DynamicObject>, &'static str, String); 2],
}

impl Configurations {
    pub(crate) fn new(client: Client, [mutating, validating]: [String; 2]) -> Self {
        let [mutating_kind, validating_kind] = KINDS;
        let of = |kind, name| (Api::all_with(client.clone(), &resource(kind)), kind, name);
        Self { configurations: [of(mutating_kind, mutating), of(validating_kind, validating)] }
    }

    /// Makes every entry hold this bundle; gives what each held before.
    pub(crate) async fn publish(&self, bundle: &str) -> Result<Vec<String>, ClusterError> {
        let mut before = Vec::new();
        for (api, kind, name) in &self.configurations {
            before.extend(publish(api, kind, name, bundle).await?);
        }
        Ok(before)
    }
}

async fn publish(api: &Api<DynamicObject>, kind: &str, name: &str, bundle: &str) -> Result<Vec<String>, ClusterError> {
    let failed = |why: String| ClusterError { what: format!("the {kind} {name}"), why };
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    for _ in 0..TRIES {
        let mut object = api.get(name).await.map_err(|error| failed(told(&error)))?;
        let Some(before) = mend(&mut object.data, bundle) else { return Err(failed("it has no webhooks".to_owned())) };
        if before.iter().all(|found| found == bundle) {
            return Ok(before);
        }
        // With the resourceVersion that was read: nobody's change is undone.
        match api.replace(name, &params, &object).await {
            Ok(_) => return Ok(before),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed(told(&error))),
        }
    }
    Err(failed("somebody else writes it all the time".to_owned()))
}

/// Gives every entry this bundle; gives what each had, or nothing where there are no entries.
fn mend(configuration: &mut Value, bundle: &str) -> Option<Vec<String>> {
    let entries = configuration.get_mut("webhooks").and_then(Value::as_array_mut).filter(|entries| !entries.is_empty())?;
    let wanted = STANDARD.encode(bundle);
    let mut before = Vec::with_capacity(entries.len());
    for entry in entries {
        let client = entry.get_mut("clientConfig").and_then(Value::as_object_mut)?;
        let found = client.get("caBundle").and_then(Value::as_str).unwrap_or_default();
        before.push(STANDARD.decode(found).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default());
        client.insert("caBundle".to_owned(), json!(wanted));
    }
    Some(before)
}

/// Tells of every change to them until `closing`.
pub(crate) async fn watch(client: Client, names: [String; 2], changed: Arc<Notify>, closing: CancellationToken) {
    let of = |(kind, name): (&'static str, String)| {
        // By its name, so that a role may name it.
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        watcher(Api::<PartialObjectMeta<DynamicObject>>::all_with(client.clone(), &resource(kind)), only).default_backoff()
    };
    let mut events = futures::stream::select_all(KINDS.into_iter().zip(names).map(|pair| of(pair).boxed()));
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(_)) => changed.notify_one(),
                Some(Err(error)) => tracing::warn!(%error, "a webhook configuration cannot be watched; it is looked at now and then"),
                None => return,
            },
            () = closing.cancelled() => return,
        }
    }
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_mended_and_nothing_else() {
        let entry = |name: &str, config: Value| json!({"name": name, "clientConfig": config, "future": {"x": 1}});
        let service = json!({"name": "kybernis-webhook", "namespace": "kybernis-system", "path": "/inject"});
        let mut configuration = json!({"webhooks": [
            entry("a", json!({"service": service})),
            entry("b", json!({"service": service, "caBundle": STANDARD.encode("old")})),
            entry("c", json!({"service": service, "caBundle": "%"})),
            entry("d", json!({"service": service, "caBundle": STANDARD.encode("new")})),
        ]});
        assert_eq!(mend(&mut configuration, "new").unwrap(), ["", "old", "", "new"]);
        let wanted = json!({"service": service, "caBundle": STANDARD.encode("new")});
        let entries = ["a", "b", "c", "d"].map(|name| entry(name, wanted.clone()));
        assert_eq!(configuration, json!({"webhooks": entries}));
        assert_eq!(mend(&mut configuration, "new").unwrap(), ["new"; 4]);
    }

    #[test]
    fn a_configuration_without_entries_is_told() {
        for mut wrong in [json!({}), json!({"webhooks": []}), json!({"webhooks": {}}), json!({"webhooks": [{"name": "a"}]}), json!(null)] {
            assert_eq!(mend(&mut wrong, "new"), None);
        }
    }
}
