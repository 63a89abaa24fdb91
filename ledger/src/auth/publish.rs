//! Where others in the cluster find the CA by which they know the ledger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

/// Where the operator finds the ledger's CA, and what it hands out under the same name.
const TRUST: &str = "kybernis-trust";
const TRUST_KEY: &str = "ca.pem";
/// What makes API servers ask the ledger; they believe it by this CA.
const API_SERVICE: &str = "v1alpha1.ledger.kybernis.io";
/// Who writes them, as server-side apply keeps account.
const MANAGER: &str = "kybernis-ledger";

/// Why the CA is not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Its file.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The API server, of the ConfigMap.
    #[error("the ConfigMap {TRUST} cannot be written")]
    Trust(#[source] kube::Error),
    /// The API server, of the APIService.
    #[error("the APIService {API_SERVICE} cannot be written")]
    ApiService(#[source] kube::Error),
}

/// Puts the ledger's CA where the operator finds it.
///
/// # Errors
/// When the file cannot be read or the ConfigMap cannot be written.
pub async fn publish_ca(client: &Client, namespace: &str, file: &Path) -> Result<(), PublishError> {
    let pem = read(file)?;
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(TRUST.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(TRUST_KEY.to_owned(), pem)])),
        ..ConfigMap::default()
    };
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    maps.patch(TRUST, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&map)).await.map_err(PublishError::Trust)?;
    Ok(())
}

/// Lets API servers know the ledger that they forward reads to. Says nothing where that stands already: whoever makes the APIService
/// anew, a release say, makes it without.
///
/// # Errors
/// When the file cannot be read, or the APIService is not there or cannot be written.
pub async fn publish_api_ca(client: &Client, file: &Path) -> Result<(), PublishError> {
    let pem = read(file)?;
    let services = Api::<APIService>::all(client.clone());
    let standing = services.get(API_SERVICE).await.map_err(PublishError::ApiService)?;
    let bundle = standing.spec.and_then(|spec| spec.ca_bundle).unwrap_or_default();
    if bundle.0 == pem.as_bytes() {
        return Ok(());
    }
    // Only what is ours: whoever applies a whole spec owns all of it.
    let patch = json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": API_SERVICE},
        "spec": {"caBundle": k8s_openapi::ByteString(pem.into_bytes())},
    });
    services.patch(API_SERVICE, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch)).await.map_err(PublishError::ApiService)?;
    tracing::info!("API servers know this ledger");
    Ok(())
}

fn read(file: &Path) -> Result<String, PublishError> {
    std::fs::read_to_string(file).map_err(|source| PublishError::File { path: file.into(), source })
}
