//! What knows Kubernetes' API: the Secrets, the two configurations, the namespaces, the gates and the rights of people. Thin: what is to be
//! written is decided elsewhere.

mod config_map;
pub(crate) mod configurations;
pub(crate) mod decisions;
pub(crate) mod namespaces;
mod secret;

use kube::Client;

use self::configurations::Configurations;
use self::secret::SecretStore;
use super::OwnCertificates;
use super::certificates::keeper::Cluster;
use super::stored::{ClusterError, Stored, Written};

/// Under which key of its Secret the certificates lie.
const CERTIFICATES: &str = "certificates.json";
/// Whose changes they are, in `managedFields`.
const FIELD_MANAGER: &str = "kybernis-webhook";

/// An error's words: of an API server's, its message alone.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// The Secret and the configurations at the API server.
pub(crate) struct ApiServer {
    secret: SecretStore,
    configurations: Configurations,
}

impl ApiServer {
    pub(crate) fn new(client: Client, namespace: &str, own: OwnCertificates) -> Self {
        Self {
            secret: SecretStore::new(client.clone(), namespace, own.secret, CERTIFICATES),
            configurations: Configurations::new(client, [own.mutating, own.validating]),
        }
    }
}

impl Cluster for ApiServer {
    async fn read(&self) -> Result<Option<Stored>, ClusterError> {
        self.secret.read().await
    }

    async fn write(&self, bytes: &[u8], over: Option<&Stored>) -> Result<Written, ClusterError> {
        self.secret.write(bytes, over).await
    }

    async fn publish(&self, bundle: &str) -> Result<Vec<String>, ClusterError> {
        self.configurations.publish(bundle).await
    }
}
