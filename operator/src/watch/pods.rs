//! Injected pods, of which nothing matters here but their namespaces: only those are kept, and only their coming and going wakes
//! anybody, because pods change all the time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::Notify;
use tokio::sync::watch;

use super::broken;
use crate::metrics::Metrics;

/// The label on what was injected.
const INJECTED: &str = "kybernis.io/injected=true";

/// Their namespaces. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pods {
    seen: Arc<Mutex<Seen>>,
    ready: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By uid.
    pods: HashMap<String, String>,
    /// Those that a list that is still coming in has told.
    listed: Option<HashMap<String, String>>,
    namespaces: BTreeSet<String>,
}

impl Default for Pods {
    fn default() -> Self {
        Self { seen: Arc::default(), ready: Arc::new(watch::Sender::new(false)) }
    }
}

impl Seen {
    /// Takes an event in; whether the namespaces are others now.
    fn apply(&mut self, event: Event<(String, String)>) -> bool {
        // A pod keeps its namespace for life: one that is known already changes nothing.
        let moved = match event {
            Event::Init => {
                self.listed = Some(HashMap::new());
                false
            }
            Event::InitApply((uid, namespace)) => {
                self.listed.get_or_insert_default().insert(uid, namespace);
                false
            }
            Event::InitDone => {
                self.pods = self.listed.take().unwrap_or_default();
                true
            }
            Event::Apply((uid, namespace)) => self.pods.insert(uid, namespace).is_none(),
            Event::Delete((uid, _)) => self.pods.remove(&uid).is_some(),
        };
        if !moved {
            return false;
        }
        let namespaces: BTreeSet<&String> = self.pods.values().collect();
        if namespaces.iter().copied().eq(&self.namespaces) {
            return false;
        }
        self.namespaces = namespaces.into_iter().cloned().collect();
        true
    }
}

impl Pods {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.seen().namespaces.clone()
    }

    pub(super) async fn ready(&self) {
        // The sender is ours.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Watches; returns never.
    pub(super) async fn keep(self, client: Client, wake: Arc<Notify>, metrics: Arc<Metrics>) {
        let api: Api<PartialObjectMeta<Pod>> = Api::all(client);
        let mut events = std::pin::pin!(watcher(api, Config::default().labels(INJECTED)).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let listed = matches!(event, Event::InitDone);
                    if named(event).is_some_and(|event| self.seen().apply(event)) || listed {
                        wake.notify_one();
                    }
                    if listed {
                        self.ready.send_replace(true);
                    }
                }
                Err(error) => broken(&metrics, "Pod", &error),
            }
        }
    }
}

/// The event with no more than uid and namespace.
fn named(event: Event<PartialObjectMeta<Pod>>) -> Option<Event<(String, String)>> {
    let name = |pod: PartialObjectMeta<Pod>| Some((pod.metadata.uid?, pod.metadata.namespace?));
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(pod) => Event::InitApply(name(pod)?),
        Event::Apply(pod) => Event::Apply(name(pod)?),
        Event::Delete(pod) => Event::Delete(name(pod)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_coming_and_going_of_namespaces_is_a_change() {
        let pod = |uid: &str, namespace: &str| (uid.to_owned(), namespace.to_owned());
        let mut seen = Seen::default();
        let steps = [
            (Event::Init, false),
            (Event::InitApply(pod("1", "a")), false),
            (Event::InitDone, true),
            (Event::Apply(pod("2", "a")), false),
            (Event::Apply(pod("2", "a")), false),
            (Event::Apply(pod("3", "b")), true),
            (Event::Delete(pod("1", "a")), false),
            (Event::Delete(pod("2", "a")), true),
            // After a watch broke: what is not listed again is gone.
            (Event::Init, false),
            (Event::InitApply(pod("9", "c")), false),
            (Event::InitDone, true),
        ];
        for (at, (event, changed)) in steps.into_iter().enumerate() {
            assert_eq!(seen.apply(event), changed, "step {at}");
        }
        assert_eq!(seen.namespaces, BTreeSet::from(["c".to_owned()]));
    }
}
