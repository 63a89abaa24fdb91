//! The Secrets that tools' probes name, each watched by its name: no other Secret ever comes into this process, and a Role with
//! `resourceNames` is permission enough.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use super::broken;
use crate::facts::{SecretName, SecretState};
use crate::metrics::Metrics;

/// Most Secrets that are watched: each is a request that stays open at the API server.
pub(crate) const SECRETS_MAX: usize = 512;
/// How long the first word on a Secret is waited for.
const FIRST: Duration = Duration::from_secs(5);

type States = Arc<Mutex<BTreeMap<SecretName, SecretState>>>;

/// Watches of Secrets.
pub(crate) struct Secrets {
    client: Client,
    wake: Arc<Notify>,
    told: Arc<Notify>,
    metrics: Arc<Metrics>,
    states: States,
    watched: BTreeMap<SecretName, AbortOnDropHandle<()>>,
}

impl Secrets {
    pub(crate) fn new(client: Client, wake: Arc<Notify>, metrics: Arc<Metrics>) -> Self {
        Self { client, wake, told: Arc::default(), metrics, states: Arc::default(), watched: BTreeMap::new() }
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<SecretName, SecretState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of exactly these; the others are no longer watched, and forgotten.
    pub(crate) async fn read(&mut self, wanted: &BTreeSet<SecretName>) -> BTreeMap<SecretName, SecretState> {
        self.watched.retain(|name, _| wanted.contains(name));
        self.states().retain(|name, _| wanted.contains(name));
        for name in wanted {
            if self.watched.contains_key(name) {
                continue;
            }
            if self.watched.len() >= SECRETS_MAX {
                let why = format!("{SECRETS_MAX} Secrets are watched already, and that is the most. Let probes share Secrets");
                self.states().insert(name.clone(), SecretState::Unreadable(why));
                continue;
            }
            let watch = watch(self.client.clone(), name.clone(), Arc::clone(&self.states), self.changed());
            self.watched.insert(name.clone(), AbortOnDropHandle::new(tokio::spawn(watch)));
        }
        let until = Instant::now() + FIRST;
        while !wanted.iter().all(|name| self.states().contains_key(name)) {
            if tokio::time::timeout_at(until, self.told.notified()).await.is_err() {
                break;
            }
        }
        self.states().clone()
    }

    fn changed(&self) -> Changed {
        Changed { wake: Arc::clone(&self.wake), told: Arc::clone(&self.told), metrics: Arc::clone(&self.metrics) }
    }
}

struct Changed {
    wake: Arc<Notify>,
    told: Arc<Notify>,
    metrics: Arc<Metrics>,
}

async fn watch(client: Client, name: SecretName, states: States, changed: Changed) {
    let api: Api<Secret> = Api::namespaced(client, &name.namespace);
    let mut events = std::pin::pin!(watcher::watch_object(api, &name.name).default_backoff());
    while let Some(event) = events.next().await {
        let state = match event {
            Ok(Some(secret)) => values(secret),
            Ok(None) => SecretState::Absent,
            Err(error) => {
                broken(&changed.metrics, "Secret", &error);
                let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
                // What is known stands while the API server is away.
                if matches!(states.get(&name), None | Some(SecretState::Unreadable(_))) {
                    states.insert(name.clone(), SecretState::Unreadable(why(&error)));
                    drop(states);
                    changed.told.notify_one();
                    changed.wake.notify_one();
                }
                continue;
            }
        };
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        if states.get(&name) != Some(&state) {
            states.insert(name.clone(), state);
            drop(states);
            changed.wake.notify_one();
        }
        changed.told.notify_one();
    }
}

/// The API server's word, without ours around it.
fn why(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn values(secret: Secret) -> SecretState {
    let data = secret.data.unwrap_or_default();
    SecretState::There(data.into_iter().map(|(key, value)| (key, Zeroizing::new(value.0))).collect())
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// An API server with one Secret, one that may not be read, and nothing else.
    async fn answer(request: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        assert_eq!(request.uri().path(), "/api/v1/namespaces/trading/secrets");
        if query.contains("watch=true") {
            std::future::pending::<()>().await;
        }
        let asked = |name: &str| query.contains(&format!("fieldSelector=metadata.name%3D{name}"));
        let (code, answer) = if asked("closed") {
            (403, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"}))
        } else {
            let secret = json!({"metadata": {"name": "open", "namespace": "trading", "resourceVersion": "3"}, "data": {"k": "dg=="}});
            let items = if asked("open") { json!([secret]) } else { json!([]) };
            (200, json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": items}))
        };
        Ok(Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap())).unwrap())
    }

    #[tokio::test]
    async fn each_is_asked_for_by_name_and_no_longer_than_it_is_wanted() {
        let client = Client::new(tower::service_fn(answer), "default");
        let mut secrets = Secrets::new(client, Arc::default(), Arc::default());
        let name = |name: &str| SecretName { namespace: "trading".to_owned(), name: name.to_owned() };
        let wanted: BTreeSet<_> = ["open", "closed", "missing"].map(name).into();
        let value = BTreeMap::from([("k".to_owned(), Zeroizing::new(b"v".to_vec()))]);
        let known = [
            (name("open"), SecretState::There(value)),
            (name("closed"), SecretState::Unreadable("no".to_owned())),
            (name("missing"), SecretState::Absent),
        ];
        assert_eq!(secrets.read(&wanted).await, known.into());
        assert_eq!(secrets.read(&[name("missing")].into()).await, [(name("missing"), SecretState::Absent)].into());
        assert_eq!(secrets.watched.len(), 1);
    }
}
