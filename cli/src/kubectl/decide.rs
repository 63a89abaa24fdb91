//! A person's word on a gate, as an object: what is asked is read and shown, the word binds exactly that, and the ledger's receipt of it
//! is waited for. Who says it is not written here: the API server knows.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args, ValueEnum};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kybernis_crds::kinds::{Decision, Gate, GateDecision, GateDecisionSpec, GateType};
use kybernis_crds::values::GoDuration;

use super::args::bare_name;
use super::connect::Cluster;
use super::gates::phase;
use super::receipt;
use crate::read::{printable, until};
use crate::say::{self, tell};

/// The longest name in Kubernetes.
const NAME_MAX: usize = 253;
/// Hexadecimal digits that tell the words on one gate apart.
const SUFFIX: usize = 8;
/// Digits of a digest that people compare.
const DIGEST_SHOWN: usize = 12;
/// Under which name the API server keeps account of who wrote a field.
const MANAGER: &str = "kubectl-kyb";

/// What becomes of the word.
#[derive(Clone, Debug, Args)]
struct HowArgs {
    /// Wait until the ledger has it on record
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    wait: bool,
    /// How long to wait for that
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    timeout: Duration,
    /// Let the API server judge the word and keep nothing
    #[arg(long, value_enum, value_name = "MODE", default_value = "none")]
    dry_run: DryRun,
}

/// `kubectl`'s own flag; what a client alone could tell of a decision is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DryRun {
    /// It counts
    None,
    /// It is judged, and not kept
    Server,
}

/// `kubectl kyb approve` and `deny`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Who may is up to the verb approve on gateclasses/CLASS (kybernis.io) in that namespace.\n\nExample:\n  \
                        kubectl kyb approve GATE -n trading --reason 'checked with the desk'")]
pub(super) struct DecideArgs {
    /// The gate
    gate: String,
    /// Goes on record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    how: HowArgs,
}

/// `kubectl kyb resolve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  kubectl kyb resolve GATE -n trading --executed --reason 'the broker shows order 1234'")]
#[group(id = "outcome", required = true, multiple = false, args = ["executed", "not_executed"])]
pub(super) struct ResolveArgs {
    /// The gate that asks, of type Resolution
    gate: String,
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
    how: HowArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    GoDuration::new(text).map(|length| Duration::from_millis(length.get().get())).map_err(|error| error.to_string())
}

/// Says yes.
pub(super) async fn approve(cluster: &Cluster, args: &DecideArgs) -> anyhow::Result<()> {
    decide(cluster, &args.gate, Decision::Approve, &args.reason, &args.how).await
}

/// Says no.
pub(super) async fn deny(cluster: &Cluster, args: &DecideArgs) -> anyhow::Result<()> {
    decide(cluster, &args.gate, Decision::Deny, &args.reason, &args.how).await
}

/// Says what became of an effect.
pub(super) async fn resolve(cluster: &Cluster, args: &ResolveArgs) -> anyhow::Result<()> {
    let decision = if args.executed { Decision::Executed } else { Decision::NotExecuted };
    decide(cluster, &args.gate, decision, &args.reason, &args.how).await
}

async fn decide(cluster: &Cluster, name: &str, decision: Decision, reason: &str, how: &HowArgs) -> anyhow::Result<()> {
    let gates: Api<Gate> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let decisions: Api<GateDecision> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let gate = gates.get(bare_name(name)).await?;
    fits(&gate, decision)?;
    tell!("{}", question(&gate));
    let random = uuid::Uuid::new_v4().simple().to_string();
    let suffix: String = random.chars().take(SUFFIX).collect();
    let word = word(&gate, decision, reason, &suffix);
    let dry_run = how.dry_run == DryRun::Server;
    let said = said(&decisions, &word, dry_run).await?;
    let created = format!("gatedecision.kybernis.io/{} created", said.metadata.name.as_deref().unwrap_or_default());
    let line = match (dry_run, how.wait) {
        (true, _) => format!("{created} (server dry run)"),
        (false, false) => created,
        (false, true) => receipt::wait(&gates, &decisions, &said, how.timeout).await?,
    };
    Ok(say::result(&format!("{line}\n"))?)
}

/// Whether the gate asks what is answered, and still does. Everything else is the API server's and the ledger's to judge.
fn fits(gate: &Gate, decision: Decision) -> anyhow::Result<()> {
    let name = gate.metadata.name.as_deref().unwrap_or_default();
    match (gate.spec.kind, decision) {
        (GateType::Approval, Decision::Approve | Decision::Deny) | (GateType::Resolution, Decision::Executed | Decision::NotExecuted) => {}
        (GateType::Approval, _) => anyhow::bail!("{name} asks for an approval: kubectl kyb approve {name}, or deny"),
        (GateType::Resolution, _) => {
            anyhow::bail!("{name} asks what became of a call: kubectl kyb resolve {name} --executed|--not-executed --reason …")
        }
    }
    match phase(gate).as_str() {
        "Pending" => Ok(()),
        other => anyhow::bail!("{name} is {other} already: nothing is asked any more"),
    }
}

/// What is being decided, in the words of the parsed request.
fn question(gate: &Gate) -> String {
    let spec = &gate.spec;
    let digest: String = spec.digest.trim_start_matches("sha256:").chars().take(DIGEST_SHOWN).collect();
    let mut lines = vec![("action", spec.action.clone())];
    if !spec.summary.is_empty() {
        lines.push(("summary", spec.summary.clone()));
    }
    lines.push(("agent", format!("{} in run {}", spec.agent, spec.run_id)));
    lines.push(("tool", spec.tool.clone()));
    lines.push(("digest", format!("sha256:{digest}…")));
    lines.push(("asked by", spec.policy.clone()));
    let people = if spec.required == 1 { "person" } else { "people" };
    lines.push(("required", format!("{} {people} who may approve gateclasses/{}", spec.required, spec.class)));
    if let Some(at) = &spec.expires_at {
        lines.push(("expires", expiry(&serde_json::json!({"at": at}))));
    }
    let shown = lines.iter().map(|(what, text)| format!("  {what:<8}  {}", printable(text)));
    shown.collect::<Vec<_>>().join("\n")
}

fn expiry(gate: &serde_json::Value) -> String {
    let at = gate["at"].as_str().unwrap_or_default();
    match until(gate, "at").as_str() {
        "past" => format!("{at}, which is past"),
        left => format!("in {left}, at {at}"),
    }
}

/// The object. It binds the gate's uid and digest, so that it is good for nothing but what was shown.
fn word(gate: &Gate, decision: Decision, reason: &str, suffix: &str) -> GateDecision {
    let gate_name = gate.metadata.name.clone().unwrap_or_default();
    // Fixed before it is first sent, unlike with `generateName`: a request that is sent twice makes one object.
    let kept: String = gate_name.chars().take(NAME_MAX - SUFFIX - 1).collect();
    let spec = GateDecisionSpec {
        gate: gate_name,
        gate_uid: gate.metadata.uid.clone().unwrap_or_default(),
        digest: gate.spec.digest.clone(),
        decision,
        reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        decided_by: None,
        signature: None,
    };
    let metadata = ObjectMeta { name: Some(format!("{kept}-{suffix}")), ..ObjectMeta::default() };
    GateDecision { metadata, spec, status: None }
}

/// Says it; what was said already in these very words, by this very name, is this.
async fn said(decisions: &Api<GateDecision>, word: &GateDecision, dry_run: bool) -> kube::Result<GateDecision> {
    let params = PostParams { dry_run, field_manager: Some(MANAGER.to_owned()) };
    match decisions.create(&params, word).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let there = decisions.get(word.metadata.name.as_deref().unwrap_or_default()).await?;
            let meant = GateDecisionSpec { decided_by: None, signature: None, ..there.spec.clone() };
            if meant == word.spec { Ok(there) } else { Err(kube::Error::Api(status)) }
        }
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubectl::gates::tests::gate;

    fn resolution() -> Gate {
        let mut gate = gate(Value::Null);
        gate.spec.kind = GateType::Resolution;
        gate
    }

    #[test]
    fn the_word_binds_the_gate_that_was_shown_and_says_nothing_of_who_says_it() {
        let word = word(&gate(Value::Null), Decision::Approve, "checked", "0a1b2c3d");
        let expect = json!({
            "apiVersion": "kybernis.io/v1alpha1",
            "kind": "GateDecision",
            "metadata": {"name": "trader-7f9c2-0a1b2c3d"},
            "spec": {
                "gate": "trader-7f9c2",
                "gateUid": "u-1",
                "digest": format!("sha256:{}", "ab".repeat(32)),
                "decision": "Approve",
                "reason": "checked",
            },
        });
        assert_eq!(serde_json::to_value(&word).unwrap(), expect);
    }

    #[test]
    fn a_gate_with_the_longest_name_can_be_decided() {
        let mut long = gate(Value::Null);
        long.metadata.name = Some("n".repeat(NAME_MAX));
        let word = word(&long, Decision::Deny, "", "0a1b2c3d");
        assert_eq!(word.metadata.name.unwrap().len(), NAME_MAX);
        assert_eq!((word.spec.gate.len(), word.spec.reason), (NAME_MAX, None));
    }

    #[test]
    fn what_is_shown_is_the_request() {
        let mut gate = gate(Value::Null);
        gate.spec.summary = "qty=500 \u{1b}[2J".to_owned();
        let shown = question(&gate);
        let expect = "  action    POST broker.example.com/v1/orders
  summary   qty=500 \u{fffd}[2J
  agent     trading/trader/Deployment/trader in run r-1
  tool      broker-orders
  digest    sha256:abababababab…
  asked by  trading/large-orders
  required  2 people who may approve gateclasses/desk-heads
  expires   2026-01-01T01:00:00Z, which is past";
        assert_eq!(shown, expect);
    }

    #[test]
    fn a_word_fits_what_is_asked_while_it_is_asked() {
        let ended = |phase: &str| gate(json!({"phase": phase}));
        for (gate, decision, expect) in [
            (gate(Value::Null), Decision::Approve, None),
            (gate(json!({"phase": "Pending"})), Decision::Deny, None),
            (resolution(), Decision::Executed, None),
            (gate(Value::Null), Decision::NotExecuted, Some("kubectl kyb approve trader-7f9c2")),
            (resolution(), Decision::Approve, Some("kubectl kyb resolve trader-7f9c2 --executed")),
            (ended("Denied"), Decision::Approve, Some("is Denied already")),
            (ended("Expired"), Decision::Deny, Some("is Expired already")),
        ] {
            match (fits(&gate, decision), expect) {
                (Ok(()), None) => {}
                (Err(why), Some(expect)) => assert!(why.to_string().contains(expect), "{why}"),
                (got, expect) => panic!("{got:?} where {expect:?}"),
            }
        }
    }
}
