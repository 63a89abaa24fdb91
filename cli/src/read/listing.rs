//! Listings: which runs there were, which effects, and which gates ask for somebody.

use clap::Args;
use serde_json::Value;

use super::output::OutputArgs;
use super::table::{Column, age, column, text, until, wide};
use super::{Asked, DataArgs, waterfall};
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
    /// Only those whose outcome nobody knows
    #[arg(long)]
    in_doubt: bool,
    /// Only those of a run
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    output: OutputArgs,
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

/// Prints all runs, the newest first.
pub(crate) async fn runs(args: RunsArgs) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    let runs = asked.api.list("/infra/runs", "runs", "").await?;
    say::result(&args.output.list(&runs, RUNS, "no runs yet: kybernis run -- COMMAND")?)?;
    asked.done().await
}

/// Prints a run's waterfall.
pub(crate) async fn show(args: ShowArgs) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    let run = one(&asked, "/infra/runs", "runs", "run_id", &args.run).await?;
    let id = text(&run, "run_id");
    let events = asked.api.list("/infra/graph/events", "events", &format!("run_id={id}")).await?;
    let structured = args.output.structured(&Value::Array(events.clone()))?;
    say::result(&structured.unwrap_or_else(|| waterfall::render(&run, &events, waterfall::width())))?;
    asked.done().await
}

/// Prints effects, the newest first.
pub(crate) async fn effects(args: EffectsArgs) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    let mut query = Vec::new();
    if args.in_doubt {
        query.push("status=IN_DOUBT".to_owned());
    }
    if let Some(run) = &args.run {
        let run = one(&asked, "/infra/runs", "runs", "run_id", run).await?;
        query.push(format!("run_id={}", text(&run, "run_id")));
    }
    let effects = asked.api.list("/infra/effects", "effects", &query.join("&")).await?;
    let empty = if args.in_doubt { "nothing is in doubt" } else { "no effects" };
    say::result(&args.output.list(&effects, EFFECTS, empty)?)?;
    asked.done().await
}

/// Prints gates, the newest first.
pub(crate) async fn gates(args: GatesArgs) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    let query = if args.all { "" } else { "status=PENDING" };
    let gates = asked.api.list("/infra/gates", "gates", query).await?;
    let empty = if args.all { "no gates" } else { "nobody owes a decision" };
    say::result(&args.output.list(&gates, GATES, empty)?)?;
    asked.done().await
}

/// The one item whose id begins with `start`.
pub(super) async fn one(asked: &Asked, path: &str, items: &str, id: &str, start: &str) -> anyhow::Result<Value> {
    let all = asked.api.list(path, items, "").await?;
    pick(all, id, start).map_err(|why| {
        // Decided gates are listed only when they are asked for, and may be meant all the same.
        let listing = if items == "gates" { "gates --all" } else { items };
        anyhow::anyhow!("{why}; `kybernis {listing}` lists what there is")
    })
}

fn pick(all: Vec<Value>, id: &str, start: &str) -> anyhow::Result<Value> {
    let named = |item: &Value| item.get(id).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(exact) = all.iter().find(|item| named(item) == start) {
        return Ok(exact.clone());
    }
    let mut fits: Vec<Value> = all.into_iter().filter(|item| named(item).starts_with(start)).collect();
    match (fits.pop(), fits.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => anyhow::bail!("nothing is called {start:?}"),
        (Some(_), others) => anyhow::bail!("{start:?} could be any of {}: give more of the id", others + 1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_enough_where_it_is_one_thing_s() {
        let all = || vec![json!({"run_id": "abc"}), json!({"run_id": "abd"}), json!({"run_id": "ab"})];
        assert_eq!(pick(all(), "run_id", "abc").unwrap()["run_id"], "abc");
        assert_eq!(pick(all(), "run_id", "ab").unwrap()["run_id"], "ab", "a whole id is no beginning");
        assert!(pick(all(), "run_id", "a").unwrap_err().to_string().contains("any of 3"));
        assert!(pick(all(), "run_id", "x").unwrap_err().to_string().contains("nothing is called \"x\""));
    }
}
