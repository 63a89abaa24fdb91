//! What the ledger tells, and what it is given, through all that can go wrong on the way.

use std::sync::atomic::Ordering;

use tonic::Status;

use serde_json::json;

use super::fake::{KEPT, Rig, for_long, gate_update, gates_synced, synced};
use super::*;
use crate::apply::{GRACE, Programmer, Trouble};
use crate::build::{Built, build};
use crate::fixtures::{RELEASE, facts, gate, live, object, policy, probed, secret};
use crate::kinds::Kind;
use crate::reconcile::RESYNC;
use crate::validate::{Validated, Validator};

fn instances(link: &Link) -> Vec<String> {
    let fleet = link.fleet.as_ref().unwrap();
    fleet.of("trading").map(|(instance, _)| instance.to_owned()).collect()
}

#[tokio::test]
async fn the_fleet_is_followed_through_lost_changes_and_lost_connections() {
    let rig = Rig::start().await;
    let first = rig.stream([Ok(live("trading", "pod-1", b"1", "")), Ok(live("trading", "pod-2", b"1", "")), synced()]);
    let link = rig.until(|link| link.fleet.is_some()).await;
    assert_eq!((link.session, instances(&link)), (1, vec!["pod-1".to_owned(), "pod-2".to_owned()]));
    assert_eq!(rig.metrics.ledger_connected.get(), 1);

    let gone = v1::GoneSidecar { tenant: "trading".to_owned(), instance: "pod-1".to_owned() };
    first.send(Ok(v1::SidecarUpdate { update: Some(v1::sidecar_update::Update::Gone(gone)) })).unwrap();
    rig.until(|link| instances(link) == ["pod-2"]).await;

    // A change was lost: it starts over on the same connection, and nothing is programmed again.
    let second = rig.stream([Ok(live("trading", "pod-3", b"1", "")), synced()]);
    first.send(Err(Status::aborted("3 changes were lost on the way; ask again"))).unwrap();
    let link = rig.until(|link| link.fleet.is_some() && instances(link) == ["pod-3"]).await;
    assert_eq!((link.session, rig.metrics.fleet_restarts.get()), (1, 1));

    // The ledger goes: nobody knows who is live until it is back, and then it may have lost what it had.
    drop(second);
    let link = rig.until(|link| link.connection.is_none()).await;
    assert!(link.fleet.is_none());
    let watches = rig.fake.watches.load(Ordering::SeqCst);
    let _third = rig.stream([synced()]);
    let link = rig.until(|link| link.connection.is_some()).await;
    assert_eq!((link.session, instances(&link).len()), (2, 0));
    assert!(rig.fake.watches.load(Ordering::SeqCst) > watches);
}

#[tokio::test]
async fn a_set_is_sent_when_it_or_its_secrets_change_and_in_a_new_session() {
    let rig = Rig::start().await;
    let first = rig.stream([synced()]);
    let link = rig.until(|link| link.fleet.is_some()).await;
    let mut programmer = Programmer::default();
    let mut facts = facts(vec![probed("a", "orders", "x.example.com"), policy("b", "p", &[])], &[]);
    secret(&mut facts, "a", "k", "one");
    let mut validator = Validator::default();
    let validated = validator.validate(&facts);
    let programmed = || std::mem::take(&mut rig.fake.script.lock().unwrap().programmed);
    let trouble = |programmer: &Programmer, validated: &Validated| -> Vec<Option<Trouble>> {
        programmer.expected(validated).into_values().map(|expected| expected.trouble).collect()
    };

    assert_eq!(trouble(&programmer, &validated), [Some(Trouble::Unsent(None)), Some(Trouble::Unsent(None))]);
    assert!(programmer.program(&link, Instant::now(), &build(&facts, &validated), &validated, &rig.metrics).await);
    let mut sent = programmed();
    sent.sort();
    assert_eq!(sent, ["a", "b"]);
    assert_eq!(trouble(&programmer, &validated), [None, None]);
    assert!(programmer.program(&link, Instant::now(), &build(&facts, &validated), &validated, &rig.metrics).await);
    assert!(programmed().is_empty(), "nothing changed");

    secret(&mut facts, "a", "k", "two");
    let validated = validator.validate(&facts);
    // The token has rotated: the ledger refuses the old one once, and then gets the new one.
    rig.write("token", "two");
    rig.fake.script.lock().unwrap().answers.push_back(Status::unauthenticated("expired"));
    assert!(!programmer.program(&link, Instant::now(), &build(&facts, &validated), &validated, &rig.metrics).await);
    assert!(programmer.program(&link, Instant::now(), &build(&facts, &validated), &validated, &rig.metrics).await);
    assert_eq!(programmed(), ["a"]);
    assert_eq!(rig.fake.script.lock().unwrap().tokens.last().unwrap(), "Bearer two");

    // What the ledger refuses is not sent over and over.
    facts.objects.retain(|object| object.key.namespace == "a");
    facts.objects.push(policy("b", "q", &[]));
    let validated = validator.validate(&facts);
    rig.fake.script.lock().unwrap().answers.push_back(Status::invalid_argument("policy_set: unknown field"));
    for _ in 0..2 {
        assert!(programmer.program(&link, Instant::now(), &build(&facts, &validated), &validated, &rig.metrics).await);
    }
    assert!(programmed().is_empty());
    assert_eq!(trouble(&programmer, &validated), [None, Some(Trouble::Refused("policy_set: unknown field".to_owned()))]);

    // A ledger that is away keeps everything as it was; one that is back is given all of it.
    drop(first);
    let away = rig.until(|link| link.connection.is_none()).await;
    assert!(!programmer.program(&away, Instant::now(), &build(&facts, &validated), &validated, &rig.metrics).await);
    let _second = rig.stream([synced()]);
    let link = rig.until(|link| link.connection.is_some()).await;
    // One that cannot be stored does not keep the other back.
    rig.fake.script.lock().unwrap().answers.push_back(Status::unavailable("no space left on device"));
    assert!(!programmer.program(&link, Instant::now(), &build(&facts, &validated), &validated, &rig.metrics).await);
    let mut sent = programmed();
    assert_eq!(sent.len(), 1);
    assert!(programmer.program(&link, Instant::now(), &build(&facts, &validated), &validated, &rig.metrics).await);
    sent.extend(programmed());
    sent.sort();
    assert_eq!(sent, ["a", "b"]);
    assert_eq!(trouble(&programmer, &validated), [None, None]);
}

#[tokio::test]
async fn where_a_part_of_its_own_is_kept_the_ledger_names_the_set_and_the_release_s_changes_come_in() {
    let rig = Rig::start().await;
    let broken = || object(Kind::Policy, "trading", "own", &json!({"mode": "Sometimes"}));
    let _standing = rig.stream([synced()]);
    rig.until(|link| link.fleet.is_some()).await;
    let (mut programmer, mut validator) = (Programmer::default(), Validator::default());
    for release in ["old", "new"] {
        let facts = facts(vec![broken(), policy(RELEASE, release, &[])], &[]);
        let validated = validator.validate(&facts);
        let built = build(&facts, &validated);
        assert_eq!(given(&rig, &mut programmer, &built, &validated).await, ["trading"], "{release}");
        assert_eq!(given(&rig, &mut programmer, &built, &validated).await, Vec::<String>::new());
        let expected = programmer.expected(&validated).remove("trading").unwrap();
        assert_eq!((expected.digest, expected.trouble), (Some(PolicyDigest::from_bytes(KEPT)), None));
        assert!(expected.behind.is_some_and(|why| why.contains("Policy trading/own does not hold")));
    }
}

/// Programs what is due, and says which tenants the ledger has taken.
async fn given(rig: &Rig, programmer: &mut Programmer, built: &Built, validated: &Validated) -> Vec<String> {
    programmer.program(&rig.ledger.link(), Instant::now(), built, validated, &rig.metrics).await;
    std::mem::take(&mut rig.fake.script.lock().unwrap().programmed)
}

#[tokio::test]
async fn what_another_leader_overwrote_is_given_again_and_a_sidecar_that_never_takes_it_hears_of_it_seldom() {
    let rig = Rig::start().await;
    let facts = facts(vec![policy("trading", "p", &[])], &[]);
    let validated = Validator::default().validate(&facts);
    let built = build(&facts, &validated);
    let ours = built.programs["trading"].set.digest();
    let tell = rig.stream([Ok(live("trading", "pod", b"", "")), synced()]);
    rig.until(|link| link.fleet.is_some()).await;
    let mut programmer = Programmer::default();
    for (running, error, after, times) in [
        (&b""[..], "", Duration::ZERO, 1),
        (b"", "", Duration::ZERO, 0),
        (ours.as_bytes(), "", GRACE, 0),
        // A leader that was frozen gives the ledger what it had.
        (b"another leader's", "", Duration::ZERO, 1),
        (b"another leader's", "", GRACE, 0),
        (b"another leader's", "", RESYNC, 1),
        // This sidecar cannot take it, however often it is given.
        (b"another leader's", "does not compile", RESYNC, 0),
    ] {
        tell.send(Ok(live("trading", "pod", running, error))).unwrap();
        let is = |link: &Link| {
            let fleet = link.fleet.clone().unwrap_or_default();
            fleet.of("trading").any(|(_, sidecar)| sidecar.digest == running && sidecar.error == error)
        };
        if !is(&rig.ledger.link()) {
            rig.until(is).await;
        }
        tokio::time::pause();
        tokio::time::advance(after).await;
        tokio::time::resume();
        assert_eq!(given(&rig, &mut programmer, &built, &validated).await.len(), times, "{running:?} {error} {after:?}");
    }
}

#[tokio::test]
async fn tenants_that_cannot_be_stored_keep_the_ledger_from_no_other() {
    let rig = Rig::start().await;
    let _tell = rig.stream([synced()]);
    rig.until(|link| link.fleet.is_some()).await;
    let closed: Vec<String> = (0..40).map(|n| format!("closed-{n}")).collect();
    let all = closed.iter().map(String::as_str).chain(["whole"]);
    let facts = facts(all.map(|namespace| policy(namespace, "p", &[])).collect(), &[]);
    let validated = Validator::default().validate(&facts);
    let (built, mut programmer) = (build(&facts, &validated), Programmer::default());
    rig.fake.script.lock().unwrap().closed = closed.iter().cloned().collect();
    let mut taken = Vec::new();
    for _ in closed {
        taken.extend(given(&rig, &mut programmer, &built, &validated).await);
    }
    assert_eq!(taken, ["whole"]);
}

#[tokio::test]
async fn whose_lead_is_over_sends_nothing_whatever_was_told() {
    let rig = Rig::start().await;
    let _tell = rig.stream([synced()]);
    let link = rig.until(|link| link.fleet.is_some()).await;
    let facts = facts(vec![policy("trading", "p", &[])], &[]);
    let validated = Validator::default().validate(&facts);
    let (built, mut programmer) = (build(&facts, &validated), Programmer::default());
    let connection = link.connection.unwrap();
    // As a process that was frozen finds it: nobody has said yet that the lead is lost.
    rig.tell_lead.send_replace(Some(Instant::now()));
    assert!(given(&rig, &mut programmer, &built, &validated).await.is_empty());
    assert_eq!(connection.decide(v1::DecideGateRequest::default()).await, Err("this replica does not lead any more".to_owned()));
    rig.tell_lead.send_replace(for_long());
    assert_eq!(given(&rig, &mut programmer, &built, &validated).await, ["trading"]);
    assert_eq!(connection.decide(v1::DecideGateRequest::default()).await, Ok(Answer::Recorded));
    assert_eq!(rig.fake.script.lock().unwrap().decided.len(), 1);
}

#[tokio::test]
async fn gates_are_followed_beside_the_sidecars_and_unknown_whenever_one_may_have_been_missed() {
    let rig = Rig::start().await;
    let tell = rig.gate_stream([gate_update(gate("gate-a")), gates_synced()]);
    let sidecars = rig.stream([synced()]);
    let names = |link: &Link| -> Option<Vec<String>> {
        Some(link.gates.as_ref()?.iter().map(|gate| format!("{} {:?}", gate.place, gate.phase)).collect())
    };
    let is = |link: &Link, wanted: &[&str]| names(link).is_some_and(|names| names == wanted);
    let before = rig.until_gates(|link| is(link, &["trading/gate-a Pending"])).await;

    let denied = v1::GateState { phase: v1::GatePhase::Denied.into(), ..gate("gate-a") };
    tell.send(gate_update(denied)).unwrap();
    // One that a newer ledger tells is no gate that could be shown, and its object is nobody's to remove.
    tell.send(gate_update(v1::GateState { phase: 99, ..gate("gate-new") })).unwrap();
    let strange = Place { namespace: "trading".to_owned(), name: "gate-new".to_owned() };
    let link = rig.until_gates(|link| link.gates.as_ref().is_some_and(|gates| gates.is_strange(&strange))).await;
    assert!(is(&link, &["trading/gate-a Denied"]), "{:?}", names(&link));
    assert!(is(&before, &["trading/gate-a Pending"]), "who looks at them sees them as they were");

    // A change was lost: nothing is known until all is told anew, and the sidecars and policies go on.
    tell.send(Err(Status::aborted("3 changes were lost on the way; ask again"))).unwrap();
    let unknown = async {
        while rig.ledger.link().gates.is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), unknown).await.unwrap();
    let again = rig.gate_stream([gate_update(gate("gate-b")), gates_synced()]);
    let link = rig.until_gates(|link| is(link, &["trading/gate-b Pending"])).await;
    assert_eq!((link.session, rig.metrics.gate_restarts.get(), link.fleet.is_some()), (1, 1, true));

    // The stream of gates fails alone.
    drop(again);
    let third = rig.gate_stream([gates_synced()]);
    let link = rig.until_gates(|link| is(link, &[])).await;
    assert!(link.connection.is_some());

    // The ledger goes.
    drop((sidecars, third));
    let link = rig.until_gates(|link| link.connection.is_none()).await;
    assert!(link.gates.is_none());
}

#[tokio::test]
async fn gates_that_ended_long_ago_are_forgotten() {
    let rig = Rig::start().await;
    let ended = v1::GateState { ended_at_ms: Some(1_000_000), ..gate("gate-old") };
    let _tell = rig.gate_stream([gate_update(ended), gate_update(gate("gate-open")), gates_synced()]);
    let _sidecars = rig.stream([synced()]);
    let link = rig.until_gates(|link| link.gates.is_some()).await;
    assert_eq!(link.gates.unwrap().iter().count(), 2);
    rig.ledger.forget_gates(Timestamp::from_second(1000).unwrap());
    assert_eq!(rig.ledger.link().gates.unwrap().iter().count(), 2);
    rig.ledger.forget_gates(Timestamp::from_second(1001).unwrap());
    let left: Vec<_> = rig.ledger.link().gates.unwrap().iter().map(|gate| gate.place.name.clone()).collect();
    assert_eq!(left, ["gate-open"]);
}
