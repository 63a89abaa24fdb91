//! Which namespace the release lives in: its objects bind the whole cluster, so whoever explains one must look there too.

use clap::Args;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;

use super::connect::Cluster;
use super::seen::Seen;

/// As the chart calls it.
const WEBHOOK: &str = "kybernis";

/// Where the release is.
#[derive(Clone, Debug, Args)]
pub(super) struct ReleaseArgs {
    /// Where Kybernis is installed [default: where its webhook is, or kybernis-system]
    #[arg(long, value_name = "NAMESPACE", env = "KYBERNIS_RELEASE_NAMESPACE")]
    release_namespace: Option<String>,
}

/// A release, as far as it shows.
#[derive(Clone, Debug)]
pub(super) struct Release {
    /// Its namespace.
    pub(super) namespace: String,
    /// By which pods are injected.
    pub(super) webhook: Seen<MutatingWebhookConfiguration>,
}

impl ReleaseArgs {
    /// Looks for it.
    pub(super) async fn find(&self, cluster: &Cluster) -> kube::Result<Release> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(cluster.client.clone());
        let webhook = Seen::of(api.get(WEBHOOK).await)?;
        let serves = webhook.found().and_then(|found| found.webhooks.as_ref()?.first()?.client_config.service.as_ref());
        let namespace = self.release_namespace.clone().or_else(|| serves.map(|service| service.namespace.clone()));
        Ok(Release { namespace: namespace.unwrap_or_else(|| kybernis_crds::SYSTEM_NAMESPACE.to_owned()), webhook })
    }
}
