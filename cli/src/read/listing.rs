//! Listings: which runs there were, which effects, and which gates ask for somebody.

use clap::Args;
use serde_json::Value;

use super::output::OutputArgs;
use super::source::{Listing, Source};
use super::table::{Column, age, column, text, until, wide};
use super::{DataArgs, waterfall};
use crate::say;

/// `kybernis runs`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kybernis runs -o wide")]
pub(crate) struct RunsArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `kybernis show`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kybernis show 3f2a        # the beginning of a run's id is enough")]
pub(crate) struct ShowArgs {
    /// The run, or the beginning of its id
    run: String,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `kybernis effects`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kybernis effects --in-doubt")]
pub(crate) struct EffectsArgs {
    #[command(flatten)]
    which: WhichEffects,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which effects are listed.
#[derive(Clone, Debug, Args)]
pub(crate) struct WhichEffects {
    /// Only those whose outcome nobody knows
    #[arg(long)]
    in_doubt: bool,
    /// Only those of a run
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
}

/// `kybernis gates`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kybernis gates\n  kybernis approve GATE --reason 'checked with the desk'")]
pub(crate) struct GatesArgs {
    /// Those that are decided, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    output: OutputArgs,
}

const RUNS: &[Column] = &[
    column("RUN", |run| text(run, "run_id")),
    column("AGENT", |run| text(run, "agent")),
    column("CALLS", |run| text(run, "calls")),
    column("EFFECTS", |run| text(run, "effects")),
    column("REPLAYED", |run| text(run, "replayed")),
    column("REFUSED", |run| text(run, "refused")),
    column("IN-DOUBT", |run| text(run, "in_doubt")),
    wide("EXPLICIT", |run| text(run, "explicit")),
    wide("EVENTS", |run| text(run, "events")),
    wide("HEAD", |run| text(run, "head")),
    wide("LAST", |run| age(run, "last_at")),
    column("AGE", |run| age(run, "started_at")),
];

const EFFECTS: &[Column] = &[
    column("EFFECT", |effect| text(effect, "effect_id")),
    column("STATE", |effect| text(effect, "state")),
    column("ACTION", |effect| text(effect, "action")),
    column("STATUS", |effect| text(effect, "status")),
    column("GATE", |effect| text(effect, "gate_id")),
    wide("TOOL", |effect| text(effect, "tool")),
    wide("AGENT", |effect| text(effect, "agent")),
    wide("RUN", |effect| text(effect, "run_id")),
    wide("KEY", |effect| text(effect, "key_level")),
    wide("FENCE", |effect| text(effect, "fence")),
    wide("CAUSE", |effect| text(effect, "cause")),
    wide("SETTLED-BY", |effect| text(effect, "settled_by")),
    column("AGE", |effect| age(effect, "granted_at")),
];

const NAMESPACE: Column = column("NAMESPACE", |item| text(item, "namespace"));

const GATES: &[Column] = &[
    column("GATE", |gate| text(gate, "gate_id")),
    column("STATUS", |gate| text(gate, "status")),
    column("TYPE", |gate| text(gate, "type")),
    column("AGENT", |gate| text(gate, "agent")),
    column("ACTION", |gate| text(gate, "action")),
    column("SUMMARY", |gate| text(gate, "summary")),
    column("REQUIRED", |gate| format!("{}/{}", text(gate, "approvals"), text(gate, "required"))),
    wide("PHASE", |gate| text(gate, "phase")),
    wide("TOOL", |gate| text(gate, "tool")),
    wide("POLICY", |gate| text(gate, "policy")),
    wide("CLASS", |gate| text(gate, "class")),
    wide("EFFECT", |gate| text(gate, "effect_id")),
    wide("RUN", |gate| text(gate, "run_id")),
    wide("DECIDED-BY", people),
    column("EXPIRES", |gate| until(gate, "expires_at")),
    column("AGE", |gate| age(gate, "opened_at")),
];

fn people(gate: &Value) -> String {
    let votes = gate.get("decisions").and_then(Value::as_array).into_iter().flatten();
    let names: Vec<String> = votes.map(|vote| text(vote, "person")).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

/// `kybernis runs`.
pub(crate) async fn runs(args: RunsArgs) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    list_runs(&asked.api, "no runs yet: kybernis run -- COMMAND", args.output).await?;
    asked.done().await
}

/// `kybernis show`.
pub(crate) async fn show(args: ShowArgs) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    show_run(&asked.api, &args.run, args.output).await?;
    asked.done().await
}

/// `kybernis effects`.
pub(crate) async fn effects(args: EffectsArgs) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    list_effects(&asked.api, &args.which, args.output).await?;
    asked.done().await
}

/// `kybernis gates`.
pub(crate) async fn gates(args: GatesArgs) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    let query = if args.all { "" } else { "status=PENDING" };
    let gates = asked.api.list(Listing::Gates, query).await?;
    list_gates(&gates, args.all, false, args.output)?;
    asked.done().await
}

/// Prints all runs, the newest first.
pub(crate) async fn list_runs(source: &impl Source, empty: &str, output: OutputArgs) -> anyhow::Result<()> {
    let runs = source.list(Listing::Runs, "").await?;
    Ok(say::result(&output.list(&runs, RUNS, empty)?)?)
}

/// Prints a run's waterfall.
pub(crate) async fn show_run(source: &impl Source, run: &str, output: OutputArgs) -> anyhow::Result<()> {
    let run = source.one(Listing::Runs, "run_id", run).await?;
    let id = run.get("run_id").and_then(Value::as_str).unwrap_or_default();
    let events = source.list(Listing::Events(id), "").await?;
    let structured = output.structured(&Value::Array(events.clone()))?;
    Ok(say::result(&structured.unwrap_or_else(|| waterfall::render(&run, &events, waterfall::width())))?)
}

/// Prints effects, the newest first.
pub(crate) async fn list_effects(source: &impl Source, which: &WhichEffects, output: OutputArgs) -> anyhow::Result<()> {
    let mut query = Vec::new();
    if which.in_doubt {
        query.push("status=IN_DOUBT".to_owned());
    }
    if let Some(run) = &which.run {
        let run = source.one(Listing::Runs, "run_id", run).await?;
        query.push(format!("run_id={}", text(&run, "run_id")));
    }
    let effects = source.list(Listing::Effects, &query.join("&")).await?;
    let empty = if which.in_doubt { "nothing is in doubt" } else { "no effects" };
    Ok(say::result(&output.list(&effects, EFFECTS, empty)?)?)
}

/// Prints gates in the order given: all that there are, or those that wait; with the namespace, where there are several.
pub(crate) fn list_gates(gates: &[Value], all: bool, with_namespace: bool, output: OutputArgs) -> anyhow::Result<()> {
    let empty = if all { "no gates" } else { "nobody owes a decision" };
    let first = with_namespace.then_some(NAMESPACE);
    let columns: Vec<Column> = first.into_iter().chain(GATES.iter().copied()).collect();
    Ok(say::result(&output.list(gates, &columns, empty)?)?)
}
