//! An API server of ours as a process of its own, and the ways to it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::process::{Process, quiet};
use crate::tls;

/// The API server of one run.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    kubeconfig: PathBuf,
    _server: Process,
}

impl Cluster {
    /// Starts an empty one under the certificates of `dir`.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let (server, at) = Process::role(&["api-server", "--dir", &dir.to_string_lossy()]).await?;
        let url = format!("https://{}", at[0]);
        let (ca, kubeconfig) = (dir.join(tls::CA), dir.join("kubeconfig"));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": url, "certificate-authority": ca, "tls-server-name": tls::NAME}}],
            "users": [{"name": "bench", "user": {"token": "bench"}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        });
        fs::write(&kubeconfig, text.to_string())?;
        let mut config = Config::new(url.parse()?);
        config.root_cert = Some(vec![CertificateDer::from_pem_file(&ca)?.to_vec()]);
        config.tls_server_name = Some(tls::NAME.to_owned());
        Ok(Self { client: Client::try_from(config)?, kubeconfig, _server: server })
    }

    /// A role of the product's that works with it.
    pub(crate) fn role(&self, kybernis: &Path, role: &str) -> Command {
        let mut command = quiet(kybernis, role);
        // The way to it leads through nobody's proxy.
        command.env("KUBECONFIG", &self.kubeconfig).env_remove("HTTPS_PROXY").env_remove("https_proxy");
        command
    }

    /// Objects of one kind, where `namespace` has them.
    pub(crate) fn objects(&self, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// Makes an object; `plural` is its kind's.
    pub(crate) async fn create(&self, plural: &str, object: &Value) -> Result<()> {
        let (Some(api_version), Some(kind)) = (object["apiVersion"].as_str(), object["kind"].as_str()) else {
            anyhow::bail!("the object has no kind: {object}");
        };
        let made: DynamicObject = serde_json::from_value(object.clone())?;
        let api = self.objects(&resource(api_version, kind, plural), object["metadata"]["namespace"].as_str());
        api.create(&PostParams::default(), &made).await.with_context(|| format!("the {kind} cannot be made"))?;
        Ok(())
    }
}

/// A kind, as the API server's paths name it.
pub(crate) fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}
