//! The cluster vouches for callers: a token's review names its ServiceAccount and the pod that it is bound to, the pod says which
//! agent it belongs to and that it carries our sidecar.
//!
//! What was found is kept for a while, and for as long as the token holds where the API server is away: agents that run go on.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::Client;
use kube::api::{Api, PostParams};
use kybernis_core::ids::TenantId;
use kybernis_core::word::PublicKeys;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::front::Front;
use super::identity::{Bearer, Owner, Owners, SidecarLook, workload};
use super::keys::published;
use super::{AuthError, Claims, Role, now};

/// How long a review holds before Kubernetes is asked again: a pod that is deleted is unknown after it, and thousands of pods ask a
/// few times a second.
const FRESH: Duration = Duration::from_secs(300);
/// Bearers that are remembered: every pod of a large cluster, and each one's next token.
const KNOWN_MAX: usize = 20_000;
/// Reviews at a time: after a start every sidecar comes at once, and the API server has others to serve.
const REVIEWS: usize = 32;
/// A review's four questions; beyond it the API server counts as away.
const PATIENCE: Duration = Duration::from_secs(10);
/// The label by which a cluster admin maps a namespace to another tenant.
const TENANT: &str = "kybernis.io/tenant";
/// The ConfigMap in kube-system in which API servers say by what an aggregated server knows them (Kubernetes, "Configure the aggregation
/// layer").
const FRONT: &str = "extension-apiserver-authentication";
/// The ConfigMap in the release's namespace in which the webhook publishes the keys that it signs decisions by.
const DECISION_KEYS: &str = "kybernis-decision-keys";

/// What the ledger must know of its cluster.
#[derive(Clone, Debug)]
pub struct KubernetesSettings {
    /// The audience that tokens for this ledger have.
    pub audience: String,
    /// The sidecar's container in a pod.
    pub container: String,
    /// The sidecar's images. Whatever their tag or digest: pods of the release before go on.
    pub images: Vec<String>,
    /// The operator's namespace and ServiceAccount.
    pub operator: (String, String),
}

/// Reviews tokens.
pub struct Kubernetes {
    client: Client,
    audience: String,
    look: SidecarLook,
    operator: (String, String),
    known: Mutex<HashMap<[u8; 32], Known>>,
    places: Semaphore,
}

/// What a token said, and when Kubernetes was asked.
struct Known {
    claims: Claims,
    asked: Instant,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// Why a review has no result.
enum ReviewError {
    /// The bearer may not come in.
    Refused(AuthError),
    /// Nobody could be asked.
    Away(String),
}

impl From<kube::Error> for ReviewError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 404 => Self::Refused(AuthError::Unknown(status.message.clone())),
            _ => Self::Away(error.to_string()),
        }
    }
}

fn unknown(error: impl std::fmt::Display) -> ReviewError {
    ReviewError::Refused(AuthError::Unknown(error.to_string()))
}

impl Kubernetes {
    /// Reviews tokens by this client.
    pub fn new(client: Client, settings: KubernetesSettings) -> Self {
        let KubernetesSettings { audience, container, images, operator } = settings;
        let look = SidecarLook { container, images };
        Self { client, audience, look, operator, known: Mutex::default(), places: Semaphore::new(REVIEWS) }
    }

    /// The keys by which admission signs what people say, as far as it has published them.
    pub(crate) async fn decision_keys(&self) -> Result<PublicKeys, kube::Error> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.operator.0);
        Ok(published(&maps.get(DECISION_KEYS).await?.data.unwrap_or_default()))
    }

    /// Who may speak for people, as this cluster's API servers have published it.
    pub(crate) async fn front(&self) -> Result<Front, String> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), "kube-system");
        let map = maps.get(FRONT).await.map_err(|error| error.to_string())?;
        Front::of(&map.data.unwrap_or_default()).map_err(|error| format!("ConfigMap kube-system/{FRONT}: {error}"))
    }

    /// The tenant of a namespace; `None` where there is no such namespace.
    pub(crate) async fn tenant_of(&self, namespace: &str) -> Result<Option<TenantId>, String> {
        match tokio::time::timeout(PATIENCE, self.tenant(namespace)).await {
            Ok(Ok(tenant)) => Ok(Some(tenant)),
            Ok(Err(ReviewError::Refused(_))) => Ok(None),
            Ok(Err(ReviewError::Away(reason))) => Err(reason),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// The release's namespace: the operator's, and the ledger's own.
    pub(crate) fn release_namespace(&self) -> &str {
        &self.operator.0
    }

    /// The claims of a token.
    pub(super) async fn review(&self, token: &str) -> Result<Claims, AuthError> {
        // What is plainly no token for us costs nobody a question.
        let expires = expiry(token, &self.audience).ok_or(AuthError::Invalid)?;
        if expires <= now() {
            return Err(AuthError::Expired);
        }
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.recall(&key, FRESH) {
            return Ok(claims);
        }
        let asked = async {
            let _place = self.places.acquire().await;
            // Whoever waited for a place may find that somebody else has asked.
            match self.recall(&key, FRESH) {
                Some(claims) => Ok(claims),
                None => self.ask(token, expires).await,
            }
        };
        let reviewed = tokio::time::timeout(PATIENCE, asked).await;
        match reviewed.unwrap_or_else(|_| Err(ReviewError::Away("no answer in time".to_owned()))) {
            Ok(claims) => {
                self.remember(key, &claims);
                Ok(claims)
            }
            Err(ReviewError::Refused(error)) => {
                self.known().remove(&key);
                Err(error)
            }
            Err(ReviewError::Away(reason)) => {
                tracing::warn!(reason, "a token cannot be reviewed");
                self.recall(&key, Duration::MAX).ok_or(AuthError::Unavailable)
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found at most so long ago, while the token holds.
    fn recall(&self, key: &[u8; 32], age: Duration) -> Option<Claims> {
        let known = self.known();
        let found = known.get(key)?;
        (found.claims.expires > now() && found.asked.elapsed() <= age).then(|| found.claims.clone())
    }

    fn remember(&self, key: [u8; 32], claims: &Claims) {
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            let now = now();
            known.retain(|_, found| found.claims.expires > now);
        }
        // Beyond the bound no new one is remembered, and Kubernetes is asked each time.
        if known.len() < KNOWN_MAX || known.contains_key(&key) {
            known.insert(key, Known { claims: claims.clone(), asked: Instant::now() });
        }
    }

    async fn ask(&self, token: &str, expires: u64) -> Result<Claims, ReviewError> {
        let user = self.user(token).await?;
        let bearer = Bearer::of(&user).ok_or_else(|| unknown("it is no ServiceAccount"))?;
        let subject = bearer.person().map_err(unknown)?;
        if (&bearer.namespace, &bearer.account) == (&self.operator.0, &self.operator.1) {
            let tenant = TenantId::new(&bearer.namespace).map_err(unknown)?;
            return Ok(Claims { role: Role::Operator, tenant, subject, workload: None, expires });
        }
        let (name, uid) = bearer.pod.clone().ok_or_else(|| unknown("the token is bound to no pod"))?;
        let pod = Api::<Pod>::namespaced(self.client.clone(), &bearer.namespace).get(&name).await?;
        self.look.check(&pod, &uid).map_err(unknown)?;
        let owners = self.owners(&bearer.namespace, &pod).await?;
        let tenant = self.tenant(&bearer.namespace).await?;
        let workload = workload(&bearer, &pod, &owners).map_err(unknown)?;
        Ok(Claims { role: Role::Sidecar, tenant, subject, workload: Some(workload), expires })
    }

    /// Whose token it is: made for us, says the API server, which must name the audience again.
    async fn user(&self, token: &str) -> Result<UserInfo, ReviewError> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![self.audience.clone()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = review.status.unwrap_or_default();
        let ours = status.audiences.unwrap_or_default().contains(&self.audience);
        match status.user {
            Some(user) if status.authenticated == Some(true) && ours => Ok(user),
            Some(_) | None => Err(ReviewError::Refused(AuthError::Invalid)),
        }
    }

    /// A pod's owners as far up as Kubernetes' own kinds go: a ReplicaSet's and a Job's are looked up, any other is the top.
    async fn owners(&self, namespace: &str, pod: &Pod) -> Result<Owners, ReviewError> {
        let Some(nearest) = Owner::of(&pod.metadata) else { return Ok(Owners::new()) };
        let metadata = match nearest.kind.as_str() {
            "ReplicaSet" => Api::<ReplicaSet>::namespaced(self.client.clone(), namespace).get(&nearest.name).await.map(|set| set.metadata),
            "Job" => Api::<Job>::namespaced(self.client.clone(), namespace).get(&nearest.name).await.map(|job| job.metadata),
            _ => return Ok(vec![nearest]),
        };
        // What owned a pod that is on its way out may have gone before it, and a namesake come: then what was known of the pod goes on.
        let metadata = metadata.map_err(|error| ReviewError::Away(format!("its owner: {error}")))?;
        if metadata.uid.as_deref() != Some(nearest.uid.as_str()) {
            return Err(ReviewError::Away(format!("its owner: {} {} is another by now", nearest.kind, nearest.name)));
        }
        Ok(std::iter::once(nearest).chain(Owner::of(&metadata)).collect())
    }

    /// The namespace, unless a cluster admin has mapped it to another tenant.
    async fn tenant(&self, namespace: &str) -> Result<TenantId, ReviewError> {
        let found = Api::<Namespace>::all(self.client.clone()).get(namespace).await?;
        let mapped = found.metadata.labels.as_ref().and_then(|labels| labels.get(TENANT));
        TenantId::new(mapped.map_or(namespace, String::as_str)).map_err(unknown)
    }
}

/// When a token for `audience` runs out, in Unix seconds, by its own word (RFC 7519, 4.1.3 and 4.1.4), which nobody has checked yet.
fn expiry(token: &str, audience: &str) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Several(Vec<String>),
    }
    #[derive(Deserialize)]
    struct Payload {
        exp: u64,
        aud: Audience,
    }
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let Payload { exp, aud } = serde_json::from_slice(&payload).ok()?;
    let ours = match aud {
        Audience::One(one) => one == audience,
        Audience::Several(several) => several.iter().any(|one| one == audience),
    };
    ours.then_some(exp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_s_own_word_says_for_whom_it_is_and_until_when() {
        let token = |payload: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(payload));
        assert_eq!(expiry(&token(r#"{"exp": 7, "aud": "ledger"}"#), "ledger"), Some(7));
        assert_eq!(expiry(&token(r#"{"exp": 7, "aud": ["a", "ledger"], "iss": "i"}"#), "ledger"), Some(7));
        for payload in [r#"{"exp": 7, "aud": "other"}"#, r#"{"exp": 7}"#, r#"{"aud": "ledger"}"#, "no json"] {
            assert_eq!(expiry(&token(payload), "ledger"), None, "{payload}");
        }
        assert_eq!(expiry("no token", "ledger"), None);
    }
}
