//! The acts, in order. Each says what goes wrong, lets the agent run, and counts.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kybernis_broker::{Fault, Then};

use crate::stage::Stage;

fn takes_and_resets(times: u32) -> Fault {
    Fault::new(Then::Reset).executing().on("POST", "/v1/orders").times(NonZeroU32::new(times).unwrap_or(NonZeroU32::MIN))
}

fn takes_and_answers_late(after_ms: u64) -> Fault {
    Fault::new(Then::Late { after_ms }).executing().on("POST", "/v1/orders")
}

pub(crate) fn play(stage: &mut Stage) -> Result<()> {
    bare(stage)?;
    ledger_killed(stage)?;
    // The agent is left alone with the dead sidecar's order while the next acts are played.
    stage.books.act(
        "kill -9 the sidecar while an order is at the broker",
        "Nobody heard the broker's answer: the order is in doubt until the probe has asked. We come back to it.",
    );
    stage.script([takes_and_answers_late(1500)])?;
    let orphan = stage.begin("order-orphan", &["--timeout", "8", "--attempts", "12", "--pause", "3"], "[orphan] ")?;
    stage.wait("the order to arrive", |books| books.executed.iter().any(|one| one.subject == "order-orphan"))?;
    orphan.kill("sidecar")?;

    same_fault_governed(stage)?;
    asks_again(stage)?;
    fresh_keys(stage)?;
    denied(stage)?;
    approval(stage)?;
    person(stage)?;

    stage.books.act("The order that the dead sidecar left", "The agent, which kept asking, was told what became of it.");
    orphan.finish()?;
    stage.count("sidecar killed in mid-call", "order-orphan", 1, true);
    waterfall(stage)
}

fn bare(stage: &mut Stage) -> Result<()> {
    stage.books.act(
        "Bare: the broker takes the order, then breaks the connection",
        "The agent's retry loop cannot know that the first order was placed.",
    );
    stage.script([takes_and_resets(2)])?;
    stage.bare("order-bare", &[])?;
    stage.count("connection broken after execution, retry loop", "order-bare", 1, false);
    Ok(())
}

fn same_fault_governed(stage: &mut Stage) -> Result<()> {
    stage.books.act(
        "The same under kybernis run",
        "The broken call is in doubt, not repeated; the declared probe asks the broker and settles it.",
    );
    stage.script([takes_and_resets(2)])?;
    stage.governed("order-same", &["--verbose"])?;
    stage.count("the same, under kybernis run", "order-same", 1, true);
    stage.script([])?;
    while stage.listed(&["effects", "--in-doubt"])?.iter().any(|effect| effect["tool"] == "broker-orders") {
        // The probe asks once a second.
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("   … and the probe has settled it: executed. The agent asks once more:");
    stage.governed("order-same", &["--attempts", "1", "--verbose"])?;
    stage.count("in doubt, settled by the declared probe", "order-same", 1, true);
    Ok(())
}

fn asks_again(stage: &mut Stage) -> Result<()> {
    stage.books.act("A client that times out and asks again", "The broker answers after 1.5 s; the agent gives up after one and repeats.");
    stage.script([takes_and_answers_late(1500)])?;
    stage.governed("order-late", &["--timeout", "1"])?;
    stage.count("time-out and repeat", "order-late", 1, true);
    Ok(())
}

fn fresh_keys(stage: &mut Stage) -> Result<()> {
    stage.books.act("A fresh UUID on every retry", "The tool's own key says that both mean the same order.");
    stage.script([takes_and_answers_late(1500)])?;
    stage.governed("order-uuid", &["--timeout", "1", "--fresh-keys"])?;
    stage.count("a new Idempotency-Key on every try", "order-uuid", 1, true);
    Ok(())
}

fn denied(stage: &mut Stage) -> Result<()> {
    stage.books.act("A call that policy denies", "The cloud's metadata service would hand out credentials.");
    let words = [
        "curl",
        "-sS",
        "-m",
        "10",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %header{x-kyb-reason}\\n",
        "http://169.254.169.254/latest/meta-data/",
    ];
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    stage.start(stage.under(&words), "")?.finish()?;
    Ok(())
}

fn approval(stage: &mut Stage) -> Result<()> {
    stage
        .books
        .act("An order over the limit waits for a person", "100 at 190.50 needs a desk head. The approval binds exactly that order.");
    stage.script([])?;
    let large = ["--qty", "100", "--verbose"];
    stage.governed("order-large", &large)?;
    stage.count("an order that waits for approval", "order-large", 0, true);
    let gates = stage.listed(&["gates"])?;
    let gate = gates.iter().find(|gate| gate["type"] == "Approval").context("no gate is open")?;
    let gate = gate["gate_id"].as_str().context("the gate has no name")?.to_owned();
    stage.says(&["gates"])?;
    stage.says(&["approve", &gate, "--reason", "checked with the desk"])?;
    println!("   The agent changes the order after the approval:");
    stage.governed("order-large", &["--qty", "1000"])?;
    stage.count("the same approval for a changed order", "order-large", 0, true);
    println!("   And the order as it was approved:");
    stage.governed("order-large", &large)?;
    stage.count("the order as it was approved", "order-large", 1, true);
    Ok(())
}

fn person(stage: &mut Stage) -> Result<()> {
    stage.books.act("A refund in doubt, and a person who settles it", "No probe is declared for refunds, so Kybernis asks people.");
    stage.script([Fault::new(Then::Reset).executing().on("POST", "/v1/refunds")])?;
    let url = format!("https://localhost:{}/v1/refunds", stage.broker.https().port());
    let body = r#"{"payment_id":"pay-7","amount":"49.00"}"#;
    let words = [
        "curl",
        "-sS",
        "-m",
        "20",
        "-H",
        "Authorization: Bearer demo",
        "-H",
        "Content-Type: application/json",
        "-w",
        "\\n%{http_code}\\n",
        "-d",
        body,
        &url,
    ];
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    stage.start(stage.under(&words), "")?.finish()?;
    let gates = stage.listed(&["gates"])?;
    let gate = gates.iter().find(|gate| gate["type"] == "Resolution").context("no gate asks about the refund")?;
    let gate = gate["gate_id"].as_str().context("the gate has no name")?.to_owned();
    stage.says(&["resolve", &gate, "--executed", "--reason", "seen in the broker's back office"])?;
    println!("   The refund is asked for once more:");
    stage.start(stage.under(&words), "")?.finish()?;
    stage.count("in doubt, settled by a person", "pay-7", 1, true);
    Ok(())
}

fn ledger_killed(stage: &mut Stage) -> Result<()> {
    stage
        .books
        .act("kill -9 the ledger while an order is at the broker", "The outcome waits in the sidecar's spool until the ledger is back.");
    stage.script([takes_and_answers_late(1500)])?;
    let playing = stage.begin("order-ledger", &["--timeout", "20"], "")?;
    stage.wait("the order to arrive", |books| books.executed.iter().any(|one| one.subject == "order-ledger"))?;
    playing.kill("ledger")?;
    playing.finish()?;
    println!("   The agent asks once more:");
    stage.governed("order-ledger", &[])?;
    stage.count("ledger killed in mid-call", "order-ledger", 1, true);
    Ok(())
}

fn waterfall(stage: &mut Stage) -> Result<()> {
    stage.books.act("The record", "Every call of one run, as it was decided.");
    let runs = stage.listed(&["runs"])?;
    let busiest = runs.iter().max_by_key(|run| run["calls"].as_u64().unwrap_or(0)).context("no run is on record")?;
    let run = busiest["run_id"].as_str().context("the run has no name")?.to_owned();
    stage.says(&["show", &run])?;
    Ok(())
}
