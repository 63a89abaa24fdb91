//! What the ledger tells, and what it is given, through all that can go wrong on the way.

use std::sync::atomic::Ordering;

use tonic::Status;

use super::fake::{Rig, gate_update, gates_synced, synced};
use super::*;
use crate::apply::{Programmer, Trouble};
use crate::build::build;
use crate::fixtures::{facts, gate, live, policy, probed, secret};
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
    assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    let mut sent = programmed();
    sent.sort();
    assert_eq!(sent, ["a", "b"]);
    assert_eq!(trouble(&programmer, &validated), [None, None]);
    assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    assert!(programmed().is_empty(), "nothing changed");

    secret(&mut facts, "a", "k", "two");
    let validated = validator.validate(&facts);
    // The token has rotated: the ledger refuses the old one once, and then gets the new one.
    rig.write("token", "two");
    rig.fake.script.lock().unwrap().answers.push_back(Status::unauthenticated("expired"));
    assert!(!programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    assert_eq!(programmed(), ["a"]);
    assert_eq!(rig.fake.script.lock().unwrap().tokens.last().unwrap(), "Bearer two");

    // What the ledger refuses is not sent over and over.
    facts.objects.retain(|object| object.key.namespace == "a");
    facts.objects.push(policy("b", "q", &[]));
    let validated = validator.validate(&facts);
    rig.fake.script.lock().unwrap().answers.push_back(Status::invalid_argument("policy_set: unknown field"));
    for _ in 0..2 {
        assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    }
    assert!(programmed().is_empty());
    assert_eq!(trouble(&programmer, &validated), [None, Some(Trouble::Refused("policy_set: unknown field".to_owned()))]);

    // A ledger that is away keeps everything as it was; one that is back is given all of it.
    drop(first);
    let away = rig.until(|link| link.connection.is_none()).await;
    assert!(!programmer.program(&away, &build(&facts, &validated), &validated, &rig.metrics).await);
    let _second = rig.stream([synced()]);
    let link = rig.until(|link| link.connection.is_some()).await;
    // One that cannot be stored does not keep the other back.
    rig.fake.script.lock().unwrap().answers.push_back(Status::unavailable("no space left on device"));
    assert!(!programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    let mut sent = programmed();
    assert_eq!(sent.len(), 1);
    assert!(programmer.program(&link, &build(&facts, &validated), &validated, &rig.metrics).await);
    sent.extend(programmed());
    sent.sort();
    assert_eq!(sent, ["a", "b"]);
    assert_eq!(trouble(&programmer, &validated), [None, None]);
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
