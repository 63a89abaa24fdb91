//! Which version this is, and which the cluster's, as the labels on its operator say.

use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use serde_json::{Value, json};

use super::connect::Cluster;
use super::release::ReleaseArgs;
use super::seen::Seen;
use crate::read::{OutputArgs, printable};
use crate::say;

const OPERATOR: &str = "kybernis-operator";

/// `kubectl kyb version`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kubectl kyb version -o json")]
pub(super) struct VersionArgs {
    #[command(flatten)]
    release: ReleaseArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints both; where there is no way to a cluster, this side's is still worth something.
pub(super) async fn version(cluster: Result<&Cluster, String>, args: &VersionArgs) -> anyhow::Result<()> {
    let there = match cluster {
        Ok(cluster) => match installed(cluster, &args.release).await {
            Ok(there) => there,
            Err(error) => unknown(&super::error::told(&error.into(), &cluster.server)),
        },
        Err(why) => unknown(&why),
    };
    let versions = json!({"client": {"version": env!("CARGO_PKG_VERSION")}, "cluster": there});
    let structured = args.output.structured(&versions)?;
    Ok(say::result(&structured.unwrap_or_else(|| lines(&versions)))?)
}

async fn installed(cluster: &Cluster, release: &ReleaseArgs) -> kube::Result<Value> {
    let release = release.find(cluster).await?;
    let operator = Seen::of(Api::<Deployment>::namespaced(cluster.client.clone(), &release.namespace).get(OPERATOR).await)?;
    // Who may not look into the release's namespace may see the webhook, which carries the same labels.
    let labels = match &operator {
        Seen::Found(operator) => operator.metadata.labels.as_ref(),
        Seen::Absent | Seen::Hidden(_) => release.webhook.found().and_then(|webhook| webhook.metadata.labels.as_ref()),
    };
    let Some(labels) = labels else {
        let absent = format!("no {OPERATOR} in namespace {}; --release-namespace says where to look", release.namespace);
        return Ok(unknown(operator.hidden().unwrap_or(&absent)));
    };
    let label = |name: &str| labels.get(name).cloned();
    Ok(json!({
        "version": label("app.kubernetes.io/version"),
        "chart": label("helm.sh/chart"),
        "namespace": release.namespace,
    }))
}

fn unknown(why: &str) -> Value {
    json!({"unknown": why})
}

fn lines(versions: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| "of no version that it tells".to_owned(), printable);
    let there = &versions["cluster"];
    let cluster = match there["unknown"].as_str() {
        Some(why) => format!("unknown: {}", printable(why)),
        None => {
            let chart = there["chart"].as_str().map(|chart| format!(", chart {}", printable(chart))).unwrap_or_default();
            format!("{}{chart}, in namespace {}", text(&there["version"]), text(&there["namespace"]))
        }
    };
    format!("Client:   {}\nCluster:  {cluster}\n", text(&versions["client"]["version"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_told_as_far_as_they_are_known() {
        let of = |cluster: Value| lines(&json!({"client": {"version": "0.1.0"}, "cluster": cluster}));
        let known = json!({"version": "0.2.0", "chart": "kybernis-0.2.1", "namespace": "kybernis-system"});
        assert_eq!(of(known), "Client:   0.1.0\nCluster:  0.2.0, chart kybernis-0.2.1, in namespace kybernis-system\n");
        assert_eq!(of(unknown("no way")), "Client:   0.1.0\nCluster:  unknown: no way\n");
    }
}
