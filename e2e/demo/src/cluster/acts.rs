//! The acts, in order. Each says what goes wrong, lets the agent run, and counts.

use std::num::NonZeroU32;
use std::process::Child;

use anyhow::{Context as _, Result};
use kybernis_broker::{Fault, Then};

use super::stage::{Stage, tempfile};

/// The broker takes the order, and breaks the connection instead of answering, twice.
fn taken_and_broken() -> Fault {
    Fault::new(Then::Reset).executing().on("POST", "/v1/orders").times(NonZeroU32::new(2).unwrap_or(NonZeroU32::MIN))
}

/// The broker takes the order, and answers late.
fn taken_and_late(after_ms: u64) -> Fault {
    Fault::new(Then::Late { after_ms }).executing().on("POST", "/v1/orders")
}

pub(crate) fn play(stage: &mut Stage) -> Result<()> {
    bare(stage)?;
    installed(stage)?;
    let mut orphan = pod_deleted(stage)?;
    same_fault(stage)?;
    asks_again(stage)?;
    denied(stage)?;
    approval(stage)?;
    ledger_deleted(stage)?;
    person(stage)?;
    orphan_settled(stage, &mut orphan)?;
    record(stage)
}

fn bare(stage: &mut Stage) -> Result<()> {
    stage.books.act(
        "Bare: the broker takes the order, then breaks the connection",
        "The agent's retry loop cannot know that the first order was placed.",
    );
    stage.script(&[taken_and_broken()])?;
    let order = stage.order("bare");
    stage.agent("bare", &order, &[])?;
    stage.count("connection broken after execution, retry loop", &order, 1, false)
}

fn installed(stage: &mut Stage) -> Result<()> {
    stage.books.act("Kybernis is installed, and one annotation opts the agent in", "The agent's image and code stay as they are.");
    let roots = tempfile(&stage.broker_ca()?)?;
    let roots = format!("sidecar.extraRoots={}", roots.path().display());
    let words = ["upgrade", "--install", "kybernis", "charts/kybernis", "-n", "kybernis-system", "--create-namespace", "--wait"];
    // The images of this build, the test cluster's sizes, and the root that vouches for the broker.
    stage.helm(&words, &["--timeout=180s", "--values", "e2e/pods/tests/objects/values.yaml", "--set-file", &roots])?;
    stage.types(&["apply", "-f", "examples/trading/"])?;
    stage.types(&["apply", "-f", "examples/people/"])?;
    let patch = r#"{"spec":{"template":{"metadata":{"annotations":{"kybernis.io/inject":"true"}}}}}"#;
    stage.types(&["patch", "deployment", "trader", "-n", "trading", "-p", patch])?;
    stage.types(&["rollout", "status", "deployment/trader", "-n", "trading", "--timeout=180s"])?;
    for policy in ["policy/trader", "toolregistration/broker-orders"] {
        stage.quietly(&["wait", "-n", "trading", policy, "--for=condition=Ready", "--timeout=120s"])?;
    }
    stage.types(&["get", "kybernis", "-A"]).map(drop)
}

/// The agent is left with the order while the next acts are played.
fn pod_deleted(stage: &mut Stage) -> Result<Child> {
    stage.books.act(
        "The pod is deleted while its order is at the broker",
        "Nobody hears the broker's answer: the order is in doubt until the probe has asked. We come back to it.",
    );
    // So late that there is time to delete a pod.
    stage.script(&[taken_and_late(20_000)])?;
    let order = stage.order("orphan");
    let orphan = stage.begin("trader", &order, &["--timeout", "60"])?;
    stage.soon("the order is at the broker", || Ok((stage.executed(&order)? == 1).then_some(())))?;
    stage.types(&["delete", "pod", "-n", "trading", "-l", "app=trader", "--grace-period=0", "--force"])?;
    stage.types(&["rollout", "status", "deployment/trader", "-n", "trading", "--timeout=180s"])?;
    Ok(orphan)
}

fn same_fault(stage: &mut Stage) -> Result<()> {
    stage.books.act(
        "The first act again, in the injected pod",
        "The registration names the broker's own idempotency header, so the sidecar may ask again, under one key.",
    );
    stage.script(&[taken_and_broken()])?;
    let order = stage.order("same");
    stage.agent("trader", &order, &["--timeout", "20", "--verbose"])?;
    stage.count("the same, injected", &order, 1, true)
}

fn asks_again(stage: &mut Stage) -> Result<()> {
    stage.books.act(
        "A client that times out and asks again, with a fresh UUID each time",
        "The tool's own key says that both mean the same order.",
    );
    stage.script(&[taken_and_late(1500)])?;
    let order = stage.order("late");
    stage.agent("trader", &order, &["--timeout", "1", "--fresh-keys"])?;
    stage.count("time-out and repeat under a new Idempotency-Key", &order, 1, true)
}

fn denied(stage: &mut Stage) -> Result<()> {
    stage.books.act("A call that policy denies", "The cloud's metadata service would hand out credentials.");
    let written = "%{http_code} %header{x-kyb-reason}\\n";
    stage.in_trader(&["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", written, "http://169.254.169.254/latest/meta-data/"])
}

fn approval(stage: &mut Stage) -> Result<()> {
    stage.books.act("An order over the limit waits for two people", "100 at 190.50. What they approve is exactly that order.");
    stage.script(&[])?;
    let order = stage.order("large");
    let large = ["--qty", "100", "--verbose"];
    stage.agent("trader", &order, &large)?;
    stage.count("an order that waits for approval", &order, 0, true)?;
    let gate = stage.gate("Approval")?;
    stage.types(&["get", "gates", "-n", "trading"])?;
    for (person, reason) in [("ada", "checked"), ("grace", "checked with the desk")] {
        let who = [format!("--as={person}"), "--as-group=desk-heads".to_owned(), "--as-group=system:authenticated".to_owned()];
        let words = ["kyb", "approve", &gate, "-n", "trading", "--reason", reason, &who[0], &who[1], &who[2]];
        stage.types(&words)?;
    }
    stage.types(&["wait", "-n", "trading", &format!("gate/{gate}"), "--for=condition=Decided", "--timeout=60s"])?;
    println!("   The agent changes the order after the approval:");
    stage.agent("trader", &order, &["--qty", "1000"])?;
    stage.count("the same approval for a changed order", &order, 0, true)?;
    println!("   And the order as it was approved:");
    stage.agent("trader", &order, &large)?;
    stage.count("the order as it was approved", &order, 1, true)
}

fn ledger_deleted(stage: &mut Stage) -> Result<()> {
    stage.books.act(
        "The ledger's pod is deleted while an order is at the broker",
        "The outcome waits in the sidecar's spool until the ledger is back.",
    );
    stage.script(&[taken_and_late(1500)])?;
    let order = stage.order("ledger");
    let mut playing = stage.begin("trader", &order, &["--timeout", "60"])?;
    stage.soon("the order is at the broker", || Ok((stage.executed(&order)? == 1).then_some(())))?;
    stage.types(&["delete", "pod", "-n", "kybernis-system", "kybernis-ledger-0", "--grace-period=0", "--force"])?;
    playing.wait()?;
    stage.quietly(&["rollout", "status", "-n", "kybernis-system", "statefulset/kybernis-ledger", "--timeout=180s"])?;
    println!("   The agent asks once more:");
    stage.agent("trader", &order, &["--timeout", "30", "--attempts", "12", "--pause", "2"])?;
    stage.count("ledger deleted in mid-call", &order, 1, true)
}

fn person(stage: &mut Stage) -> Result<()> {
    stage.books.act("A refund in doubt, and a person who settles it", "Nobody has said how to ask about refunds, so Kybernis asks people.");
    stage.script(&[Fault::new(Then::Reset).executing().on("POST", "/v1/refunds")])?;
    let payment = stage.order("pay");
    let body = format!(r#"{{"payment_id":"{payment}","amount":"49.00"}}"#);
    let refund = ["curl", "-sS", "-m", "20", "-H", "Authorization: Bearer demo", "-H", "Content-Type: application/json"];
    let refund = [&refund[..], &["-w", "\\n%{http_code}\\n", "-d", &body, "https://broker.example.com/v1/refunds"]].concat();
    stage.in_trader(&refund)?;
    let gate = stage.gate("Resolution")?;
    let who = ["--as=kay", "--as-group=on-call", "--as-group=system:authenticated"];
    let words = ["kyb", "resolve", &gate, "-n", "trading", "--executed", "--reason", "seen in the back office", who[0], who[1], who[2]];
    stage.types(&words)?;
    println!("   The refund is asked for once more:");
    stage.in_trader(&refund)?;
    stage.count("in doubt, settled by a person", &payment, 1, true)
}

fn orphan_settled(stage: &mut Stage, orphan: &mut Child) -> Result<()> {
    stage.books.act("The order that the deleted pod left", "A new pod of the same Deployment asks, and is told what became of it.");
    // kubectl's connection ended with the pod.
    orphan.wait().context("cannot wait for kubectl")?;
    // The lease of the deleted pod runs out half a minute after its last word, and then the probe asks.
    stage.soon("nothing is under way or in doubt", || {
        let effects = stage.quietly(&["kyb", "effects", "-n", "trading", "-o", "json"])?;
        let settled = !effects.contains("\"DISPATCHED\"") && !effects.contains("\"IN_DOUBT\"");
        Ok(settled.then_some(()))
    })?;
    let order = stage.order("orphan");
    stage.agent("trader", &order, &["--timeout", "20", "--attempts", "1", "--verbose"])?;
    stage.count("pod deleted in mid-call", &order, 1, true)
}

fn record(stage: &mut Stage) -> Result<()> {
    stage.books.act("The record", "Every call of one run, as it was decided.");
    let runs = stage.types(&["kyb", "runs", "-n", "trading"])?;
    let run = runs.lines().nth(1).and_then(|line| line.split_whitespace().next()).context("no run is on record")?.to_owned();
    stage.types(&["kyb", "show", &run, "-n", "trading"])?;
    let newest = "jsonpath={.items[0].metadata.name}";
    let pod =
        stage.quietly(&["get", "pods", "-n", "trading", "-l", "app=trader", "--field-selector=status.phase=Running", "-o", newest])?;
    stage.types(&["kyb", "explain-pod", &pod, "-n", "trading"]).map(drop)
}
