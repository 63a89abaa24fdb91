//! Why a pod is governed, or why not: what its objects say, in the order in which one asks.
//!
//! [`facts`] looks, the rooms beside it judge what was seen and know no cluster, [`essay`] words it.

mod agent;
mod essay;
mod facts;
mod injection;
mod policies;
mod sidecar;
#[cfg(test)]
mod tests;

use clap::Args;
use serde::Serialize;

use self::agent::Agent;
use self::facts::Facts;
use self::policies::{Registered, Standing};
use self::sidecar::{Capturing, Sidecar};
use super::args::bare_name;
use super::connect::Cluster;
use super::release::ReleaseArgs;
use crate::read::OutputArgs;
use crate::say;

/// `kubectl kyb explain-pod`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Reads objects only, and changes nothing.\n\nExample:\n  kubectl kyb explain-pod POD -n trading")]
pub(super) struct ExplainArgs {
    /// The pod
    pod: String,
    #[command(flatten)]
    release: ReleaseArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// All that is to be said of a pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    /// `namespace/name`.
    pod: String,
    /// Whether it carries a sidecar of ours.
    injected: bool,
    /// Why, or why not.
    because: Vec<String>,
    /// How its connections are caught.
    #[serde(skip_serializing_if = "Option::is_none")]
    capture: Option<Capturing>,
    /// How its sidecar does.
    #[serde(skip_serializing_if = "Option::is_none")]
    sidecar: Option<Sidecar>,
    /// Who it is to the ledger, or would be.
    agent: Agent,
    /// The policies that select it.
    policies: Vec<Standing>,
    /// The tools that its calls are recognised by.
    tools: Registered,
    /// The retry policies that hold for it.
    retry_policies: Registered,
    /// What makes its rules looser than they would be.
    looser: Vec<String>,
    /// What could not be read.
    unknown: Vec<String>,
    /// What to do.
    next: Vec<String>,
}

/// Prints what there is to say of a pod.
pub(super) async fn explain_pod(cluster: &Cluster, args: &ExplainArgs) -> anyhow::Result<()> {
    let release = args.release.find(cluster).await?;
    let facts = Facts::gather(cluster, bare_name(&args.pod), release).await?;
    let explanation = Explanation::of(&facts);
    let structured = args.output.structured(&serde_json::to_value(&explanation)?)?;
    Ok(say::result(&structured.unwrap_or_else(|| explanation.to_string()))?)
}

impl Explanation {
    /// Judges what was seen.
    fn of(facts: &Facts) -> Self {
        let injection = injection::judge(facts);
        let agent = Agent::of(facts);
        let capture = if injection.injected { Capturing::of(facts) } else { None };
        let sidecar = if injection.injected { Sidecar::of(facts) } else { None };
        let policies = policies::selecting(facts);
        let (tools, retry_policies) = (Registered::of(&facts.tools), Registered::of(&facts.retry_policies));
        let mut next = injection.next;
        if let Some(sidecar) = &sidecar {
            next.extend(sidecar.next(facts));
        }
        next.extend(policies::next(&policies, [&tools, &retry_policies]));
        if next.is_empty() && injection.injected {
            next.push(format!("kubectl kyb show {} -n {}    # what it has done so far", agent.run, facts.namespace_name()));
        }
        Self {
            pod: format!("{}/{}", facts.namespace_name(), facts.name()),
            injected: injection.injected,
            because: injection.because,
            looser: policies::looser(facts, capture.as_ref(), &policies),
            capture,
            sidecar,
            agent,
            policies,
            tools,
            retry_policies,
            unknown: facts.unknown(),
            next,
        }
    }
}
