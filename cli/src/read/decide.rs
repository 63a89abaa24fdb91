//! A person's word: on a call that waits for approval, and on an effect whose outcome nobody knows.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};

use super::source::{Listing, Source as _};
use super::table::{printable, text};
use super::{Asked, DataArgs};
use crate::say;

/// `kybernis approve` and `deny`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kybernis approve GATE --reason 'checked with the desk'")]
pub(crate) struct DecideArgs {
    /// The gate, or the beginning of its name
    gate: String,
    /// Goes on record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    data: DataArgs,
}

/// `kybernis resolve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kybernis resolve EFFECT --executed --reason 'the broker shows order 1234'")]
#[group(id = "outcome", required = true, multiple = false, args = ["executed", "not_executed"])]
pub(crate) struct ResolveArgs {
    /// The effect in doubt or its gate, or the beginning of either's id
    what: String,
    /// It happened at the far side
    #[arg(long)]
    executed: bool,
    /// It did not happen, and may be done again
    #[arg(long)]
    not_executed: bool,
    /// How you know; goes on record
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    #[command(flatten)]
    data: DataArgs,
}

/// Says yes.
pub(crate) async fn approve(args: DecideArgs) -> anyhow::Result<()> {
    decide(args, "APPROVED").await
}

/// Says no.
pub(crate) async fn deny(args: DecideArgs) -> anyhow::Result<()> {
    decide(args, "DENIED").await
}

async fn decide(args: DecideArgs, status: &str) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    let told = async {
        let gate = asked.api.one(Listing::Gates, "gate_id", &args.gate).await?;
        let name = text(&gate, "gate_id");
        if text(&gate, "type") != "Approval" {
            anyhow::bail!("{name} asks what became of a call: kybernis resolve {name} --executed|--not-executed --reason …");
        }
        let after = tell(&asked, &gate, status, &args.reason).await?;
        let mut told = format!("{name}: {}\n  {} {}", standing(&after), text(&gate, "agent"), text(&gate, "action"));
        if let Some(summary) = gate.get("summary").and_then(Value::as_str).filter(|summary| !summary.is_empty()) {
            told += &format!("\n  {}", printable(summary));
        }
        Ok(told)
    };
    finish(told.await, asked).await
}

/// Says what became of an effect.
pub(crate) async fn resolve(args: ResolveArgs) -> anyhow::Result<()> {
    let asked = args.data.ask().await?;
    let told = async {
        let gate = resolution(&asked, &args.what).await?;
        let status = if args.executed { "EXECUTED" } else { "NOT_EXECUTED" };
        let after = tell(&asked, &gate, status, &args.reason).await?;
        let meaning = match text(&after, "phase").as_str() {
            "Executed" => "on record as executed; a repeat of the call is not sent",
            "NotExecuted" => "on record as not executed; the next such call is sent",
            _ => return Ok(format!("{}: {}", text(&gate, "gate_id"), standing(&after))),
        };
        Ok(format!("{} ({}): {meaning}", text(&gate, "effect_id"), text(&gate, "action")))
    };
    finish(told.await, asked).await
}

/// The gate that asks about `what`, which is its own name or its effect's.
async fn resolution(asked: &Asked, what: &str) -> anyhow::Result<Value> {
    if let Ok(gate) = asked.api.one(Listing::Gates, "gate_id", what).await {
        if text(&gate, "type") != "Resolution" {
            let name = text(&gate, "gate_id");
            anyhow::bail!("{name} asks for an approval: kybernis approve {name}, or deny");
        }
        return Ok(gate);
    }
    let effect = asked.api.one(Listing::Effects, "effect_id", what).await?;
    let (name, state) = (text(&effect, "effect_id"), text(&effect, "state"));
    if let Some(gate) = effect.get("gate_id").and_then(Value::as_str) {
        return asked.api.one(Listing::Gates, "gate_id", gate).await;
    }
    if state == "IN_DOUBT" {
        anyhow::bail!("{name} is in doubt, and its tool's probe is still at it; a gate opens when the probe gives up");
    }
    anyhow::bail!("{name} is {state}, so there is nothing to resolve")
}

/// Binds the word to what was shown: the digest is the gate's.
async fn tell(asked: &Asked, gate: &Value, status: &str, reason: &str) -> anyhow::Result<Value> {
    let body = json!({"gate_id": gate["gate_id"], "status": status, "reason": reason, "digest": digest(gate)});
    asked.api.post("/infra/gate/decide", &body).await
}

/// Shown as `sha256:…`, told as its digits.
fn digest(gate: &Value) -> Option<&str> {
    let shown = gate.get("digest")?.as_str()?;
    Some(shown.strip_prefix("sha256:").unwrap_or(shown))
}

fn standing(gate: &Value) -> String {
    match text(gate, "phase").as_str() {
        "Approved" => "approved; the agent's next identical call goes through".to_owned(),
        "Denied" => "denied; the call stays refused".to_owned(),
        "Pending" => format!("{} of {} approvals; more people are needed", text(gate, "approvals"), text(gate, "required")),
        other => format!("is {other} now"),
    }
}

async fn finish(told: anyhow::Result<String>, asked: Asked) -> anyhow::Result<()> {
    asked.done().await?;
    Ok(say::result(&(told? + "\n"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_what_happens_next() {
        let gate = |phase: &str| json!({"phase": phase, "approvals": 1, "required": 2});
        assert!(standing(&gate("Approved")).contains("next identical call goes through"));
        assert_eq!(standing(&gate("Pending")), "1 of 2 approvals; more people are needed");
        assert_eq!(standing(&gate("Expired")), "is Expired now");
    }

    #[test]
    fn the_digest_is_told_in_its_digits() {
        assert_eq!(digest(&json!({"digest": "sha256:00ff"})), Some("00ff"));
        assert_eq!(digest(&json!({})), None);
    }
}
