//! What decisions ask the API server, and the key that signs them.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use kybernis_core::word::PublicKeys;
use kybernis_crds::kinds;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::config_map::ConfigMapStore;
use super::secret::SecretStore;
use super::told;
use crate::server::DecisionKey;
use crate::server::certificates::moment::Moment;
use crate::server::decisions::authority::{Answer, Question};
use crate::server::decisions::judge::{Expiry, Gate, May};
use crate::server::decisions::keys::keeper::KeyStore;
use crate::server::decisions::keys::material::{Entries, public_keys};
use crate::server::decisions::user::User;
use crate::server::review::GROUP;
use crate::server::stored::{ClusterError, Stored, Written};

/// For one question; whoever asks waits a little longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// What a person must be allowed to do, with the resource below and their gate's class as its name. The API server knows no such
/// resource: it stands for the right alone.
const VERB: &str = "approve";
const CLASSES: &str = "gateclasses";
/// Under which key of its Secret the seed lies.
const SEED: &str = "seed";

/// Answers questions until `closing`. The reviews' own bound is that of the questions at a time.
pub(crate) async fn answer(client: Client, keys: DecisionKeys, mut questions: mpsc::Receiver<Question>, closing: CancellationToken) {
    loop {
        let question = tokio::select! {
            question = questions.recv() => question,
            () = closing.cancelled() => return,
        };
        let Some(question) = question else { return };
        let (client, keys) = (client.clone(), keys.clone());
        tokio::spawn(async move {
            match question {
                Question::Gate { namespace, name, answer } => tell(answer, gate(client, &namespace, &name)).await,
                Question::May { user, namespace, class, answer } => tell(answer, may(client, user, namespace, class)).await,
                Question::Keys { answer } => tell(answer, keys.public()).await,
            }
        });
    }
}

async fn tell<T>(answer: Answer<T>, found: impl Future<Output = Result<T, String>>) {
    let late = |_| Err("the API server does not answer in time".to_owned());
    let found = tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(late);
    // Whoever asked may have given up.
    drop(answer.send(found));
}

async fn gate(client: Client, namespace: &str, name: &str) -> Result<Option<Gate>, String> {
    let found = Api::<kinds::Gate>::namespaced(client, namespace).get_opt(name).await.map_err(|error| told(&error))?;
    Ok(found.map(of))
}

/// What counts of a Gate object.
pub(crate) fn of(gate: kinds::Gate) -> Gate {
    let kinds::GateSpec { digest, kind, class, expires_at, .. } = gate.spec;
    let expiry = |time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| {
        // Before 1970 is long ago too.
        let millis = u64::try_from(time.0.as_millisecond()).unwrap_or_default();
        Expiry { at: Moment::from_millis(millis), text: time.0.to_string() }
    };
    Gate {
        uid: gate.metadata.uid.unwrap_or_default(),
        digest,
        kind,
        class,
        phase: gate.status.and_then(|status| status.phase),
        expires: expires_at.map(expiry),
    }
}

async fn may(client: Client, user: User, namespace: String, class: String) -> Result<May, String> {
    let resource = ResourceAttributes {
        namespace: Some(namespace),
        verb: Some(VERB.to_owned()),
        group: Some(GROUP.to_owned()),
        resource: Some(CLASSES.to_owned()),
        name: Some(class),
        ..ResourceAttributes::default()
    };
    let User { username, uid, groups, extra } = user;
    let spec = SubjectAccessReviewSpec { user: Some(username), uid, groups, extra, resource_attributes: Some(resource), ..<_>::default() };
    let question = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let api = Api::<SubjectAccessReview>::all(client);
    let answer = api.create(&PostParams::default(), &question).await.map_err(|error| told(&error))?;
    let status = answer.status.ok_or("the API server's answer says nothing")?;
    let remark = status.evaluation_error.or(status.reason).filter(|remark| !remark.is_empty());
    Ok(May { is_allowed: status.allowed && status.denied != Some(true), remark })
}

/// The Secret with the key, and the ConfigMap by which it is believed.
#[derive(Clone)]
pub(crate) struct DecisionKeys {
    secret: SecretStore,
    config_map: ConfigMapStore,
}

impl DecisionKeys {
    pub(crate) fn new(client: Client, namespace: &str, key: DecisionKey) -> Self {
        Self {
            secret: SecretStore::new(client.clone(), namespace, key.secret, SEED),
            config_map: ConfigMapStore::new(client, namespace, key.config_map),
        }
    }

    async fn public(&self) -> Result<PublicKeys, String> {
        let stored = self.config_map.read().await.map_err(|error| error.to_string())?;
        Ok(stored.map(|stored| public_keys(&stored.bytes)).unwrap_or_default())
    }
}

impl KeyStore for DecisionKeys {
    async fn seed(&self) -> Result<Option<Stored>, ClusterError> {
        self.secret.read().await
    }

    async fn write_seed(&self, seed: &[u8], over: Option<&Stored>) -> Result<Written, ClusterError> {
        self.secret.write(seed, over).await
    }

    async fn published(&self) -> Result<Option<Stored<Entries>>, ClusterError> {
        self.config_map.read().await
    }

    async fn publish(&self, entries: &Entries, over: Option<&Stored<Entries>>) -> Result<Written, ClusterError> {
        self.config_map.write(entries, over).await
    }
}
