//! The way to a cluster, as `kubectl` finds it: flags, then KUBECONFIG, then `~/.kube/config`, then the pod that this runs in.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// Longer than a listing takes that still helps somebody: an API server that is silent for so long does not answer.
const SILENCE: Duration = Duration::from_secs(60);

/// `kubectl`'s own flags.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterArgs {
    /// The namespace [default: the context's]
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The kubeconfig's context [default: its current one]
    #[arg(long, global = true, value_name = "CONTEXT")]
    context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Whom to act as, where one may
    #[arg(long = "as", global = true, value_name = "USER")]
    user: Option<String>,
    /// A group to act in; may be repeated
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    groups: Vec<String>,
}

/// A cluster, and the namespace that is looked at.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// `HOST:PORT`, for messages.
    pub(super) server: String,
}

impl ClusterArgs {
    /// Finds the way.
    pub(super) async fn connect(&self) -> anyhow::Result<Cluster> {
        let mut config = self.config().await.map_err(|error| anyhow::anyhow!("{error}; give --kubeconfig FILE, or set KUBECONFIG"))?;
        config.read_timeout = Some(SILENCE);
        // A person waits: what fails is told at once, and no word is said twice behind their back.
        config.default_retry = false;
        if self.user.is_some() {
            config.auth_info.impersonate.clone_from(&self.user);
        }
        if !self.groups.is_empty() {
            config.auth_info.impersonate_groups = Some(self.groups.clone());
        }
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
        Ok(Cluster { client: Client::try_from(config)?, namespace, server })
    }

    async fn config(&self) -> Result<Config, KubeconfigError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(file) = &self.kubeconfig {
            return Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await;
        }
        match Config::from_kubeconfig(&options).await {
            // A context is a kubeconfig's: elsewhere there is none of that name.
            Err(error) if self.context.is_none() => Config::incluster().map_err(|_| error),
            found => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: a
clusters:
- {name: c, cluster: {server: 'http://127.0.0.1:1'}}
users:
- {name: u, user: {}}
contexts:
- {name: a, context: {cluster: c, user: u, namespace: trading}}
- {name: b, context: {cluster: c, user: u}}
";

    #[tokio::test]
    async fn the_namespace_is_the_flags_else_the_contexts_else_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, KUBECONFIG).unwrap();
        let of = |namespace: Option<&str>, context: Option<&str>| ClusterArgs {
            namespace: namespace.map(str::to_owned),
            context: context.map(str::to_owned),
            kubeconfig: Some(file.clone()),
            ..ClusterArgs::default()
        };
        for (args, namespace) in [
            (of(None, None), "trading"),
            (of(None, Some("b")), "default"),
            (of(Some("other"), None), "other"),
            (of(Some("other"), Some("b")), "other"),
        ] {
            let cluster = args.connect().await.unwrap();
            assert_eq!((cluster.namespace.as_str(), cluster.server.as_str()), (namespace, "127.0.0.1:1"));
        }
        let Err(unknown) = of(None, Some("c")).connect().await else { panic!("there is no such context") };
        assert!(unknown.to_string().contains("context") && unknown.to_string().contains("--kubeconfig"), "{unknown}");
    }
}
