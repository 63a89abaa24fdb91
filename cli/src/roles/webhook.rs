//! `kybernis webhook`: admission, by which sidecars come into pods and what does not hold stays out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use kybernis_webhook::Config;
use kybernis_webhook::server::{Certificates, DecisionKey, LINGER, Lifetimes, OwnCertificates, Settings};

use super::{LogArgs, Problems, asked_to_end};

/// The settings of a webhook.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Runs in a cluster, or with KUBECONFIG beside one.\n\nExample:\n  kybernis webhook --config config.yaml")]
pub(crate) struct WebhookArgs {
    /// What is injected, as the chart's ConfigMap says
    #[arg(long, value_name = "FILE", env = "KYBERNIS_WEBHOOK_CONFIG")]
    config: PathBuf,
    /// Where API servers connect: HTTPS
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_WEBHOOK_LISTEN", default_value = "127.0.0.1:7443")]
    listen: String,
    /// Where probes and metrics are asked for
    #[arg(long, value_name = "ADDRESS:PORT", env = "KYBERNIS_ADMIN_LISTEN", default_value = "127.0.0.1:7490")]
    admin_listen: String,
    /// The Service by which API servers reach this webhook, in the release's namespace
    #[arg(long, value_name = "NAME", env = "KYBERNIS_WEBHOOK_SERVICE", default_value = "kybernis-webhook")]
    service: String,
    /// The Secret there that holds the certificates, which the webhook makes and rotates
    #[arg(long, value_name = "NAME", env = "KYBERNIS_WEBHOOK_SECRET", default_value = "kybernis-webhook-tls")]
    secret: String,
    /// The MutatingWebhookConfiguration and the ValidatingWebhookConfiguration, which share a name
    #[arg(long, value_name = "NAME", env = "KYBERNIS_WEBHOOK_CONFIGURATION", default_value = "kybernis")]
    configuration: String,
    /// The Secret there with the key that signs decisions, which the webhook makes; deleting it is how the key is changed
    #[arg(long, value_name = "NAME", env = "KYBERNIS_WEBHOOK_DECISION_KEY", default_value = "kybernis-decision-key")]
    decision_key: String,
    /// The ConfigMap there with the public keys of now and before, by which decisions are believed
    #[arg(long, value_name = "NAME", env = "KYBERNIS_WEBHOOK_DECISION_KEYS", default_value = "kybernis-decision-keys")]
    decision_keys: String,
    /// How long the CA is good for that it makes, by which API servers check it: at least three times as long as its certificate
    #[arg(long, value_name = "SECONDS", env = "KYBERNIS_WEBHOOK_AUTHORITY_SECONDS", default_value_t = Lifetimes::default().authority.as_secs())]
    authority_seconds: u64,
    /// How long its own certificate is good for: at least three times the grace time
    #[arg(long, value_name = "SECONDS", env = "KYBERNIS_WEBHOOK_LEAF_SECONDS", default_value_t = Lifetimes::default().leaf.as_secs())]
    leaf_seconds: u64,
    /// How long after a change of the CA every API server is taken to know it
    #[arg(long, value_name = "SECONDS", env = "KYBERNIS_WEBHOOK_GRACE_SECONDS", default_value_t = Lifetimes::default().grace.as_secs())]
    grace_seconds: u64,
    /// A certificate's chain that somebody else rotates, cert-manager say, and caBundle with it
    #[arg(long, value_name = "PEM_FILE", env = "KYBERNIS_TLS_CERTIFICATE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "PEM_FILE", env = "KYBERNIS_TLS_KEY", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// The API server's address inside the cluster, as Kubernetes tells every container
    #[arg(long, value_name = "IP", env = "KUBERNETES_SERVICE_HOST", default_value = "")]
    api_server: String,
    /// Its port
    #[arg(long, value_name = "PORT", env = "KUBERNETES_SERVICE_PORT", default_value = "443")]
    api_server_port: String,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs until asked to end.
pub(crate) async fn run(args: WebhookArgs) -> anyhow::Result<()> {
    let mut problems = Problems::default();
    let filter = problems.keep("--log", args.log.filter());
    let api_server = args.api_server.parse().ok().zip(args.api_server_port.parse().ok()).map(|(ip, port)| SocketAddr::new(ip, port));
    let config = problems.keep("--config", config(&args.config, api_server));
    let listener = problems.listen("--listen", &args.listen);
    let admin = problems.listen("--admin-listen", &args.admin_listen);
    let (filter, config, listener, admin) = problems.settle((|| Some((filter?, config?, listener?, admin?)))())?;
    args.log.start(filter)?;
    if config.api_server().is_none() {
        tracing::warn!(host = args.api_server, "no address of the API server's is known: agents that are captured do not reach it");
    }
    let certificates = match (args.tls_certificate, args.tls_key) {
        (Some(certificate), Some(key)) => Certificates::Provided { certificate, key },
        _ => Certificates::Own(OwnCertificates {
            service: args.service,
            secret: args.secret,
            mutating: args.configuration.clone(),
            validating: args.configuration,
            lifetimes: Lifetimes {
                authority: Duration::from_secs(args.authority_seconds),
                leaf: Duration::from_secs(args.leaf_seconds),
                grace: Duration::from_secs(args.grace_seconds),
            },
        }),
    };
    let client = super::api_server().await?;
    let decision_key = DecisionKey { secret: args.decision_key, config_map: args.decision_keys };
    let settings = Settings { config, listener, admin, certificates, decision_key, linger: LINGER };
    kybernis_webhook::server::run(settings, client, super::until_asked(asked_to_end(None, std::future::ready(())))).await?;
    Ok(())
}

fn config(path: &Path, api_server: Option<SocketAddr>) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut settings: kybernis_webhook::Settings = serde_yaml_ng::from_str(&text).with_context(|| path.display().to_string())?;
    settings.api_server = settings.api_server.or(api_server);
    Config::new(settings).with_context(|| path.display().to_string())
}
