//! `kybernis token`: who may sign tokens, the data folder's owner, signs one for a sidecar that no supervisor starts.

use clap::Args;
use kybernis_core::ids::{AgentId, RunId, TenantId};
use kybernis_ledger::auth::{Claims, Role, TokenKey, Workload};

use crate::read::DataArgs;
use crate::roles::{Problems, labels};
use crate::say;
use crate::supervise::{TOKEN_LIFE, local_person, now_seconds};

/// What the token says.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kybernis token --data /var/lib/kybernis --agent trader --label app=trader > token")]
pub(crate) struct TokenArgs {
    /// The agent's name on record
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// The agent's namespace
    #[arg(long, value_name = "NAMESPACE", default_value = kybernis_crds::DEFAULT_NAMESPACE)]
    namespace: String,
    /// A label that policies' selectors look at; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Names the run, and so makes it explicit
    #[arg(long, value_name = "ID")]
    run_id: Option<String>,
    #[command(flatten)]
    data: DataArgs,
}

/// Prints the token.
pub(crate) fn token(args: TokenArgs) -> anyhow::Result<()> {
    let mut problems = Problems::default();
    let agent = problems.keep("--agent", AgentId::new(&args.agent));
    let tenant = problems.keep("--namespace", TenantId::new(&args.namespace));
    let labels = problems.keep("--label", labels(&args.labels));
    let instance = uuid::Uuid::new_v4().to_string();
    let run = problems.keep("--run-id", RunId::new(args.run_id.as_deref().unwrap_or(&instance)));
    let complete = || Some((agent?, tenant?, labels?, run?));
    let (agent, tenant, labels, run) = problems.settle(complete())?;
    let workload = Workload { agent, run, explicit_run: args.run_id.is_some(), labels, instance };
    let expires = now_seconds() + TOKEN_LIFE.as_secs();
    let claims = Claims { role: Role::Sidecar, tenant, subject: local_person(), workload: Some(workload), expires };
    let token = TokenKey::open(args.data.home()?.path())?.mint(&claims);
    Ok(say::result(&format!("{token}\n"))?)
}
