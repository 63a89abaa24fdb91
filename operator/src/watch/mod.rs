//! What the API server is watched for. Each watch begins anew by itself, whatever ends it: an API server that is away, a version that
//! is too old (410), a kind that is not installed yet.

mod gates;
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
use tokio::sync::{Notify, watch};

pub(crate) use self::gates::{GateWatches, decision, gate};
use self::pods::Pods;
pub(crate) use self::secrets::Secrets;
use crate::apply::{MANAGED_BY, ROOTS_KEY, TRUST, TRUST_KEY};
use crate::facts::{INJECT, Namespace as Found, TENANT, Trust, TrustCopy};
use crate::kinds::Kind;
use crate::metrics::Metrics;
use crate::object::Object;
use crate::wake::Wakes;

/// What is known of one kind. Cheap to clone.
#[derive(Clone)]
struct Known<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    store: Store<K>,
    /// The store's own word wakes only the last of those who wait for it.
    listed: Arc<watch::Sender<bool>>,
}

impl<K> Known<K>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    /// Waits until all there are have been listed once.
    async fn ready(&self) {
        // The sender is ours.
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }
}

/// Everything that is watched all the time.
#[derive(Clone)]
pub(crate) struct Watches {
    kinds: Vec<(Kind, Known<DynamicObject>)>,
    namespaces: Known<PartialObjectMeta<Namespace>>,
    copies: Known<ConfigMap>,
    pods: Pods,
}

impl Watches {
    /// The watches, and the tasks that keep them; they end never. `wakes` are told of every change that concerns them.
    pub(crate) fn new(client: &Client, wakes: &Wakes, metrics: &Arc<Metrics>) -> (Self, Vec<BoxFuture<'static, ()>>) {
        let mut tasks = Vec::new();
        let wake = &wakes.policies;
        let kinds = Kind::ALL.map(|kind| {
            let resource = kind.resource();
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let (known, task) = keep(kind.name(), api, Config::default(), Writer::new(resource), &[wake], metrics);
            tasks.push(task);
            (kind, known)
        });
        let both = [wake, &wakes.gates];
        let (namespaces, task) = keep("Namespace", Api::all(client.clone()), Config::default(), Writer::default(), &both, metrics);
        tasks.push(task);
        let named = Config::default().fields(&format!("metadata.name={TRUST}"));
        let (copies, task) = keep("ConfigMap", Api::all(client.clone()), named, Writer::default(), &[wake], metrics);
        tasks.push(task);
        let pods = Pods::default();
        tasks.push(pods.clone().keep(client.clone(), Arc::clone(wake), Arc::clone(metrics)).boxed());
        (Self { kinds: kinds.into(), namespaces, copies, pods }, tasks)
    }

    /// Waits until each has been listed once: whoever knows half of it would take the other half for deleted.
    pub(crate) async fn ready(&self) {
        for (_, known) in &self.kinds {
            known.ready().await;
        }
        self.namespaces.ready().await;
        self.copies.ready().await;
        self.pods.ready().await;
    }

    /// What people have written, in the order of the keys.
    pub(crate) fn objects(&self) -> Vec<Arc<Object>> {
        let of = |(kind, known): &(Kind, Known<DynamicObject>)| {
            let kind = *kind;
            known.store.state().into_iter().filter_map(move |found| Object::read(kind, found))
        };
        let mut objects: Vec<Arc<Object>> = self.kinds.iter().flat_map(of).map(Arc::new).collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects
    }

    /// Every namespace.
    pub(crate) fn namespaces(&self) -> BTreeMap<String, Found> {
        namespaces(&self.namespaces)
    }

    /// The watches of gates and of what people say of them, which know the namespaces from here; and the tasks that keep them.
    pub(crate) fn gates(&self, client: &Client, wakes: &Wakes, metrics: &Arc<Metrics>) -> (GateWatches, Vec<BoxFuture<'static, ()>>) {
        GateWatches::new(client, self.namespaces.clone(), wakes, metrics)
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
            let file = |key: &str| found.data.as_ref().and_then(|data| data.get(key)).cloned();
            let trust = file(TRUST_KEY).map(|ca| Trust { ca, roots: file(ROOTS_KEY) });
            Some((found.metadata.namespace.clone()?, TrustCopy { trust, ours }))
        };
        self.copies.store.state().into_iter().filter_map(read).collect()
    }
}

fn namespaces(known: &Known<PartialObjectMeta<Namespace>>) -> BTreeMap<String, Found> {
    let read = |found: Arc<PartialObjectMeta<Namespace>>| {
        let labels = found.metadata.labels.as_ref();
        let label = |name: &str| labels.and_then(|labels| labels.get(name)).cloned();
        let terminating = found.metadata.deletion_timestamp.is_some();
        Some((found.metadata.name.clone()?, Found { inject: label(INJECT), tenant: label(TENANT), terminating }))
    };
    known.store.state().into_iter().filter_map(read).collect()
}

/// Keeps one store, and tells `wakes` of every change.
fn keep<K>(
    what: &'static str,
    api: Api<K>,
    config: Config,
    writer: Writer<K>,
    wakes: &[&Arc<Notify>],
    metrics: &Arc<Metrics>,
) -> (Known<K>, BoxFuture<'static, ()>)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let wakes: Vec<Arc<Notify>> = wakes.iter().map(|wake| Arc::clone(wake)).collect();
    let (metrics, listed) = (Arc::clone(metrics), Arc::new(watch::Sender::new(false)));
    let known = Known { store: writer.as_reader(), listed: Arc::clone(&listed) };
    // Who wrote which field is half of an object's size, and nobody here asks.
    let lean = |event: Event<K>| event.modify(|object| object.meta_mut().managed_fields = None);
    let events = watcher(api, config).default_backoff().map(move |event| event.map(lean)).reflect(writer);
    let task = events.for_each(move |event| {
        match event {
            Ok(event @ (Event::Apply(_) | Event::Delete(_) | Event::InitDone)) => {
                if matches!(event, Event::InitDone) {
                    listed.send_replace(true);
                }
                wakes.iter().for_each(|wake| wake.notify_one());
            }
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => broken(&metrics, what, &error),
        }
        std::future::ready(())
    });
    (known, task.boxed())
}

fn broken(metrics: &Metrics, what: &'static str, error: &watcher::Error) {
    metrics.watch_errors.add(1);
    tracing::warn!(watch.kind = what, %error, "a watch broke and begins anew");
}
