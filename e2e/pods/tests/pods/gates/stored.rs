//! What stands in the cluster of a word: nothing after a dry run, and after that what never changes and counts once.

use anyhow::{Context as _, Result, ensure};
use kybernis_pods::{Space, World, said, unheard_of};
use serde_json::{Value, json};

use super::{TWO, asks, named, object, refuses, said_by, trader, waiting, word};
use crate::scenario::{Told, installed};

pub(crate) fn kept(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("gates-kept")?;
    let agent = trader(&space, TWO)?;
    let order = unheard_of("kept");
    asks(world, &agent, &order, "approval_required")?;
    let gate = waiting(&space)?;
    dry_run(&space, &gate)?;
    asks(world, &agent, &order, "0 of 2")?;

    let made = said_by(&space, "ada", &word(&gate, "Approve"))?;
    unchanged(&space, &made)?;
    let stored = copied(&object(&space, &made)?)?;
    refuses(&space, "somebody else's signed word", "eve", &stored, "may not approve")?;
    asks(world, &agent, &order, "1 of 2")?;
    // Copied by somebody who may, it becomes a word of hers.
    let copy = said_by(&space, "grace", &stored)?;
    let signed = |name: &str| space.field(name, "{.spec.signature}");
    ensure!(signed(&made)? != signed(&copy)?, "two people have one signature");
    space.wait(&named(&gate), "condition=Approved")?;
    asks(world, &agent, &order, "201 ")?;
    space.wait(&named(&gate), "jsonpath={.status.phase}=Consumed")?;
    refuses(&space, "the same signed word again", "ada", &stored, "it is Consumed")?;

    let executed = world.books()?.of(&order);
    ensure!(executed == 1, "what was approved once was executed {executed} times");
    Ok(Told::new("a word on a dry run, changed, copied, and said again after its gate was used", "0 before, 1 after"))
}

/// Judged like any other, and neither signed nor kept.
fn dry_run(space: &Space<'_>, gate: &Value) -> Result<()> {
    let try_as = |who: &str| space.try_as(who, "desk", ["--dry-run=server", "--output=json"], &word(gate, "Approve").to_string());
    let refused = try_as("eve")?;
    let heard = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && heard.contains("may not approve"), "a dry run by who may not: {heard}");
    let answer = try_as("ada")?;
    ensure!(answer.status.success(), "a dry run: {}", String::from_utf8_lossy(&answer.stderr));
    let shown: Value = serde_json::from_slice(&answer.stdout)?;
    ensure!(shown["spec"]["decidedBy"] == "ada" && shown["spec"].get("signature").is_none(), "a dry run shows {}", shown["spec"]);
    let stored = said(&mut space.kubectl(["get", "gatedecisions", "--output=name"]))?;
    ensure!(stored.is_empty(), "a dry run left {stored}");
    Ok(())
}

/// By nobody, and whatever Kubernetes lets them: neither what was said nor what became of it.
fn unchanged(space: &Space<'_>, made: &str) -> Result<()> {
    let before = object(space, made)?["spec"].clone();
    let never = "a GateDecision never changes";
    let operators = "only Kybernis' operator writes";
    let patches: [(&[&str], &str); 6] = [
        (&[r#"--patch={"spec":{"decision":"Deny"}}"#], never),
        (&[r#"--patch={"spec":{"decidedBy":"grace"}}"#], never),
        (&[r#"--patch={"spec":{"reason":"as told"}}"#], never),
        (&[r#"--patch={"spec":{"signature":null}}"#], never),
        (&["--as=ada", "--as-group=desk", "--as-group=system:authenticated", r#"--patch={"spec":{"decision":"Deny"}}"#], never),
        (&["--subresource=status", r#"--patch={"status":{"conditions":[]}}"#], operators),
    ];
    for (arguments, told) in patches {
        let refused = said(space.kubectl(["patch", made, "--type=merge"]).args(arguments));
        let heard = refused.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(heard.contains(told), "kubectl patch {arguments:?} heard: {heard}; not {told}");
    }
    ensure!(object(space, made)?["spec"] == before, "{made} has changed");
    Ok(())
}

/// What somebody who has read a word would create anew: its spec as it is, signature and all.
fn copied(stored: &Value) -> Result<Value> {
    stored["spec"]["signature"].as_str().context("the word is not signed")?;
    Ok(json!({
        "apiVersion": stored["apiVersion"],
        "kind": stored["kind"],
        "metadata": {"generateName": "copy-"},
        "spec": stored["spec"],
    }))
}
