//! What the API server is watched for. Each watch begins anew by itself, whatever ends it: an API server that is away, a version that
//! is too old (410), a kind that is not installed yet.

mod pods;
mod secrets;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use self::pods::Pods;
pub(crate) use self::secrets::Secrets;
use crate::apply::{MANAGED_BY, TRUST, TRUST_KEY};
use crate::facts::{INJECT, Namespace as Found, TENANT, TrustCopy};
use crate::kinds::Kind;
use crate::metrics::Metrics;
use crate::object::Object;

/// Everything that is watched all the time.
#[derive(Clone)]
pub(crate) struct Watches {
    kinds: Vec<(Kind, Store<DynamicObject>)>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    copies: Store<ConfigMap>,
    pods: Pods,
}

impl Watches {
    /// The watches, and the tasks that keep them; they end never. `wake` is told of every change.
    pub(crate) fn new(client: &Client, wake: &Arc<Notify>, metrics: &Arc<Metrics>) -> (Self, Vec<BoxFuture<'static, ()>>) {
        let mut tasks = Vec::new();
        let kinds = Kind::ALL.map(|kind| {
            let resource = kind.resource();
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let writer = Writer::new(resource);
            let store = writer.as_reader();
            tasks.push(keep(kind.name(), api, Config::default(), writer, wake, metrics));
            (kind, store)
        });
        let writer = Writer::default();
        let namespaces = writer.as_reader();
        tasks.push(keep("Namespace", Api::all(client.clone()), Config::default(), writer, wake, metrics));
        let writer = Writer::default();
        let copies = writer.as_reader();
        let named = Config::default().fields(&format!("metadata.name={TRUST}"));
        tasks.push(keep("ConfigMap", Api::all(client.clone()), named, writer, wake, metrics));
        let pods = Pods::default();
        tasks.push(pods.clone().keep(client.clone(), Arc::clone(wake), Arc::clone(metrics)).boxed());
        (Self { kinds: kinds.into(), namespaces, copies, pods }, tasks)
    }

    /// Waits until each has been listed once: whoever knows half of it would take the other half for deleted.
    pub(crate) async fn ready(&self) {
        // A store errs when its writer is gone, and then this process ends.
        for (_, store) in &self.kinds {
            let _ = store.wait_until_ready().await;
        }
        let _ = self.namespaces.wait_until_ready().await;
        let _ = self.copies.wait_until_ready().await;
        self.pods.ready().await;
    }

    /// What people have written, in the order of the keys.
    pub(crate) fn objects(&self) -> Vec<Arc<Object>> {
        let of = |(kind, store): &(Kind, Store<DynamicObject>)| {
            let kind = *kind;
            store.state().into_iter().filter_map(move |found| Object::read(kind, found))
        };
        let mut objects: Vec<Arc<Object>> = self.kinds.iter().flat_map(of).map(Arc::new).collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects
    }

    /// Every namespace.
    pub(crate) fn namespaces(&self) -> BTreeMap<String, Found> {
        let read = |found: Arc<PartialObjectMeta<Namespace>>| {
            let labels = found.metadata.labels.as_ref();
            let label = |name: &str| labels.and_then(|labels| labels.get(name)).cloned();
            let terminating = found.metadata.deletion_timestamp.is_some();
            Some((found.metadata.name.clone()?, Found { inject: label(INJECT), tenant: label(TENANT), terminating }))
        };
        self.namespaces.state().into_iter().filter_map(read).collect()
    }

    /// Namespaces with an injected pod.
    pub(crate) fn injected(&self) -> std::collections::BTreeSet<String> {
        self.pods.namespaces()
    }

    /// Every copy of the ledger's CA, the ledger's own included.
    pub(crate) fn copies(&self) -> BTreeMap<String, TrustCopy> {
        let read = |found: Arc<ConfigMap>| {
            let (label, value) = MANAGED_BY;
            let ours = found.metadata.labels.as_ref().and_then(|labels| labels.get(label)).is_some_and(|found| found == value);
            let ca = found.data.as_ref().and_then(|data| data.get(TRUST_KEY)).cloned();
            Some((found.metadata.namespace.clone()?, TrustCopy { ca, ours }))
        };
        self.copies.state().into_iter().filter_map(read).collect()
    }
}

/// Keeps one store.
fn keep<K>(
    what: &'static str,
    api: Api<K>,
    config: Config,
    writer: Writer<K>,
    wake: &Arc<Notify>,
    metrics: &Arc<Metrics>,
) -> BoxFuture<'static, ()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let (wake, metrics) = (Arc::clone(wake), Arc::clone(metrics));
    // Who wrote which field is half of an object's size, and nobody here asks.
    let lean = |event: Event<K>| event.modify(|object| object.meta_mut().managed_fields = None);
    let events = watcher(api, config).default_backoff().map(move |event| event.map(lean)).reflect(writer);
    events
        .for_each(move |event| {
            match event {
                Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone) => wake.notify_one(),
                Ok(Event::Init | Event::InitApply(_)) => {}
                Err(error) => broken(&metrics, what, &error),
            }
            std::future::ready(())
        })
        .boxed()
}

fn broken(metrics: &Metrics, what: &'static str, error: &watcher::Error) {
    metrics.watch_errors.add(1);
    tracing::warn!(watch.kind = what, %error, "a watch broke and begins anew");
}
