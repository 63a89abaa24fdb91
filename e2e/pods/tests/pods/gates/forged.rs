//! While nobody signs: the webhook is away, then its configurations are gone, and at last the admission policies that stand behind them.
//! What words are let in then is for the ledger to believe, and it believes none.

use anyhow::{Result, ensure};
use kybernis_pods::{Release, Space, World, said, soon, unheard_of};
use serde_json::{Value, json};

use super::{TWO, asks, named, not_taken, object, refuses, said_by, stores, trader, waiting, with, word};
use crate::scenario::{Told, installed};

/// Signs.
const WEBHOOK: &str = "deployment/kybernis-webhook";
/// What leads words to it, and asks it once more in the end.
const CONFIGURATIONS: [&str; 2] = ["mutatingwebhookconfiguration/kybernis", "validatingwebhookconfiguration/kybernis"];
/// What stands behind them.
const POLICY: &str = "validatingadmissionpolicybinding/kybernis-decisions";

/// Gates and words from before.
struct Before {
    /// One that two people have approved, and that was used.
    used: Value,
    /// Ada's word on that.
    old: Value,
    /// One that waits, with Ada's word already.
    open: Value,
    /// Her word on that.
    fresh: Value,
}

pub(crate) fn webhook_gone(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("gates-forged")?;
    let agent = trader(&space, TWO)?;
    let (first, order) = (unheard_of("first"), unheard_of("forged"));
    asks(world, &agent, &first, "approval_required")?;
    let used = waiting(&space)?;
    let old = object(&space, &said_by(&space, "ada", &word(&used, "Approve"))?)?;
    said_by(&space, "grace", &word(&used, "Approve"))?;
    space.wait(&named(&used), "condition=Approved")?;
    asks(world, &agent, &first, "201 ")?;
    asks(world, &agent, &order, "approval_required")?;
    let open = waiting(&space)?;
    let fresh = object(&space, &said_by(&space, "ada", &word(&open, "Approve"))?)?;
    let before = Before { used, old, open, fresh };

    let forged = unguarded(world, &space, &before);
    // The chart makes them anew, and the webhook's certificates get into them again: the scenarios after this one need them.
    said(&mut world.kubectl_system(["scale", WEBHOOK, "--replicas=2"]))?;
    world.install(Release::Today)?;
    let words = forged?;
    asks(world, &agent, &order, "1 of 2")?;
    let books = world.books()?;
    ensure!((books.of(&first), books.of(&order)) == (1, 0), "forged words were acted upon: {books:?}");

    soon("a word is signed again", || stores(&space, "grace", &word(&before.open, "Approve")).map(Some))?;
    space.wait(&named(&before.open), "condition=Approved")?;
    asks(world, &agent, &order, "201 ")?;
    let books = world.books()?;
    ensure!((books.of(&first), books.of(&order)) == (1, 1), "executed otherwise than once: {books:?}");
    let done = format!("webhook at 0, its configurations deleted, then the policy behind them: {words} forged words; `helm upgrade`");
    Ok(Told::new(&done, "0 by forged words, 1 after"))
}

/// Takes one guard after the other away; returns how many words were tried.
fn unguarded(world: &World, space: &Space<'_>, before: &Before) -> Result<usize> {
    let right = || word(&before.open, "Approve");
    world.scale(WEBHOOK, 0)?;
    refuses(space, "a word that nobody signs", "grace", &right(), "stamp.decisions.kybernis.io")?;

    said(world.kubectl(["delete"]).args(CONFIGURATIONS))?;
    let unseen = "Kybernis' mutating webhook has not seen the decision";
    // An API server that has just lost them may still ask.
    soon("the webhooks are asked no more", || refuses(space, "unsigned", "grace", &right(), unseen).map(Some))?;
    let by = |who: &str, word: Value| with(word, "decidedBy", json!(who));
    let signed_as = |word: Value, like: &Value| with(word, "signature", like["spec"]["signature"].clone());
    let made_up = with(by("grace", right()), "signature", json!("ed25519:0000000000000000:AAAA"));
    let service_account = "system:serviceaccount:gates-forged:default";
    let closed = [
        ("signed by nobody", "grace", by("grace", right()), unseen),
        ("in another's name", "eve", signed_as(by("ada", right()), &before.fresh), "spec.decidedBy is not eve"),
        ("a ServiceAccount's", service_account, signed_as(by(service_account, right()), &before.fresh), "a ServiceAccount decides no gate"),
    ];
    for (what, who, word, told) in &closed {
        refuses(space, what, who, word, told)?;
    }
    let copy = |stored: &Value, who: &str| signed_as(by(who, right()), stored);
    let open = [
        ("a signature that somebody made up", "grace", made_up, "Refused"),
        ("Ada's signature under Grace's name", "grace", copy(&before.fresh, "grace"), "Refused"),
        ("Ada's signature under the name of who may not", "eve", copy(&before.fresh, "eve"), "Refused"),
        ("Ada's signature for another gate", "ada", copy(&before.old, "ada"), "Refused"),
        ("Ada's Yes as a No", "ada", with(copy(&before.fresh, "ada"), "decision", json!("Deny")), "Refused"),
    ];
    for (what, who, word, told) in &open {
        not_taken(space, &stores(space, who, word)?, told).map_err(|error| error.context(*what))?;
    }
    // What the ledger has heard already it hears once more, and it changes nothing.
    let replayed = stores(space, "ada", &signed_as(by("ada", word(&before.used, "Approve")), &before.old))?;
    space.wait(&replayed, "condition=Recorded")?;
    let phase = space.field(&named(&before.used), "{.status.phase}")?;
    ensure!(phase == "Consumed", "an approval that was used is {phase} after its word was said again");

    said(&mut world.kubectl(["delete", POLICY]))?;
    let unsigned = soon("the policy is asked no more", || stores(space, "eve", &right()).map(Some))?;
    not_taken(space, &unsigned, "Unsigned")?;
    let in_her_name = stores(space, "eve", &signed_as(by("grace", right()), &before.fresh))?;
    not_taken(space, &in_her_name, "Refused")?;
    let status = space.field(&named(&before.open), "{.status.phase} {.status.decisions[*].by}")?;
    ensure!(status == "Pending ada", "of {} forged words the gate says: {status}", open.len());
    Ok(2 + closed.len() + open.len() + 3)
}
