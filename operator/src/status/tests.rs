//! Statuses of a small cluster, as golden lines (`KYB_BLESS=1` writes them anew), and the rules on times and Events.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::fixtures::{RELEASE, facts, live, now, object, object_with, policy, tool};
use crate::kinds::Kind;
use crate::validate::Validator;

struct Cluster {
    validated: Validated,
    expected: BTreeMap<String, Expected>,
    fleet: Option<Fleet>,
    connected_since: Option<Instant>,
    now: Now,
}

impl Cluster {
    /// In which the ledger has taken every set that holds.
    fn new(objects: Vec<std::sync::Arc<Object>>) -> Self {
        let validated = Validator::default().validate(&facts(objects, &[]));
        let of = |(tenant, plan): (&String, &Plan)| {
            let expected = match plan {
                Plan::Holds { set, .. } => Expected { digest: Some(set.digest()), ..Expected::default() },
                Plan::Behind { set, why, .. } | Plan::Kept { set, why, .. } => {
                    Expected { digest: Some(set.digest()), behind: Some(why.clone()), ..Expected::default() }
                }
                Plan::Held(why) => Expected { trouble: Some(Trouble::Held(why.clone())), ..Expected::default() },
            };
            (tenant.clone(), expected)
        };
        let expected = validated.tenants.iter().map(of).collect();
        Self { validated, expected, fleet: Some(Fleet::default()), connected_since: None, now: now(1_000_000) }
    }

    fn digest(&self, tenant: &str) -> Vec<u8> {
        self.expected[tenant].digest.unwrap().as_bytes().to_vec()
    }

    /// A sidecar that has been there for long.
    fn live(&mut self, tenant: &str, instance: &str, digest: &[u8], error: &str) {
        let long_ago = self.now.steady.checked_sub(GRACE * 2).unwrap();
        self.fleet.get_or_insert_default().apply(live(tenant, instance, digest, error), long_ago);
    }

    fn view(&self) -> View<'_> {
        View {
            validated: &self.validated,
            expected: &self.expected,
            fleet: self.fleet.as_ref(),
            connected_since: self.connected_since,
            now: self.now,
        }
    }

    fn tell(&self, name: &str, before: &Status) -> Told {
        let (object, fault) = self.validated.objects.iter().find(|(object, _)| object.key.name == name).unwrap();
        self.view().tell(object, fault.as_ref(), before)
    }

    fn lines(&self, text: &mut String, case: &str) {
        writeln!(text, "## {case}").unwrap();
        for (object, fault) in &self.validated.objects {
            let told = self.view().tell(object, fault.as_ref(), &Status::of(object));
            writeln!(text, "{}", object.key).unwrap();
            for condition in &told.status.conditions {
                let Condition { type_, status, reason, message, observed_generation, .. } = condition;
                writeln!(text, "  {type_}={status} {reason} @{}: {message}", observed_generation.unwrap_or(-1)).unwrap();
            }
            if let Some(rules) = told.status.rules {
                let agents = told.status.agents.map_or_else(|| "unknown".to_owned(), |agents| agents.to_string());
                writeln!(text, "  rules={rules} agents={agents}").unwrap();
            }
            for Happened { warning, reason, note } in &told.happened {
                let kind = if *warning { "Warning" } else { "Normal" };
                writeln!(text, "  Event {kind} {reason:?}: {note}").unwrap();
            }
        }
        text.push('\n');
    }
}

fn small() -> Vec<std::sync::Arc<Object>> {
    vec![policy(RELEASE, "everywhere", &[]), tool("trading", "orders", "a.example.com"), policy("trading", "desk", &["orders"])]
}

#[test]
fn statuses_say_exactly_this() {
    let mut text = String::new();
    Cluster::new(small()).lines(&mut text, "nobody is live");

    let mut cluster = Cluster::new(small());
    let digest = cluster.digest("trading");
    cluster.live("trading", "pod-1", &digest, "");
    cluster.live("trading", "pod-2", &digest, "");
    cluster.lines(&mut text, "all run with it");

    cluster.live("trading", "pod-3", b"old", "");
    cluster.lines(&mut text, "one lags");
    cluster.live("trading", "pod-3", b"old", "spec.rules[0].when: no such function");
    cluster.lines(&mut text, "one cannot take it");
    cluster.live("trading", "pod-3", &digest, "");

    cluster.expected.get_mut("trading").unwrap().trouble = Some(Trouble::Unsent(Some("connection refused".to_owned())));
    cluster.lines(&mut text, "the ledger has not taken it");
    cluster.expected.get_mut("trading").unwrap().trouble = Some(Trouble::Refused("tools[0]: unknown field".to_owned()));
    cluster.lines(&mut text, "the ledger refuses it");
    cluster.fleet = None;
    cluster.expected.get_mut("trading").unwrap().trouble = None;
    cluster.lines(&mut text, "the ledger is away");

    let mut objects = small();
    objects.push(object(Kind::RetryPolicy, "trading", "wrong", &json!({"attempts": 0, "on": {"statuses": [200]}})));
    objects.push(object(Kind::Budget, "trading", "daily", &json!({"per": "Agent"})));
    let mut cluster = Cluster::new(objects);
    cluster.live("trading", "pod-1", b"old", "");
    cluster.lines(&mut text, "one does not hold");

    let mut objects = small();
    objects.push(object(Kind::Policy, RELEASE, "wrong", &json!({"mode": "Sometimes"})));
    Cluster::new(objects).lines(&mut text, "one of the release's does not hold");

    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/status/golden.txt");
    if std::env::var_os("KYB_BLESS").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&golden).unwrap_or_default(), "see {}", golden.display());
}

#[test]
fn what_has_not_changed_is_told_the_same_and_times_move_only_with_the_status() {
    let mut cluster = Cluster::new(small());
    let first = cluster.tell("desk", &Status::default());
    let stored = object_with(Kind::Policy, "trading", "desk", &json!({}), &serde_json::to_value(&first.status).unwrap());
    let read = Status::of(&stored);
    assert_eq!(read, first.status, "what is written is read as it was");
    cluster.now = now(2_000_000);
    let again = cluster.tell("desk", &read);
    assert_eq!((&again.status, again.happened.len()), (&first.status, 0));

    let digest = cluster.digest("trading");
    cluster.live("trading", "pod-1", &digest, "");
    let programmed = cluster.tell("desk", &read);
    let of = |told: &Told, kind: &str| {
        told.status.condition(kind).map(|known| (known.reason.clone(), known.last_transition_time.0.as_second())).unwrap()
    };
    assert_eq!(of(&programmed, PROGRAMMED), ("Programmed".to_owned(), 1_000_000), "True as before, for another reason");
    cluster.live("trading", "pod-2", b"old", "");
    let pending = cluster.tell("desk", &programmed.status);
    assert_eq!(of(&pending, PROGRAMMED), ("Pending".to_owned(), 2_000_000));
    assert_eq!(of(&pending, ACCEPTED), ("Accepted".to_owned(), 1_000_000));
    let turns: Vec<_> = pending.happened.iter().map(|happened| (happened.warning, happened.reason)).collect();
    assert_eq!(turns, [(false, Reason::Pending)]);
}

#[test]
fn a_condition_that_is_true_is_not_lowered_while_sidecars_have_time_to_take_a_new_set() {
    let mut cluster = Cluster::new(small());
    let digest = cluster.digest("trading");
    cluster.live("trading", "pod-1", &digest, "");
    let before = cluster.tell("desk", &Status::default()).status;
    cluster.live("trading", "pod-1", b"the set before", "");
    let until = cluster.now.steady + Duration::from_secs(3);
    cluster.expected.get_mut("trading").unwrap().fresh_until = Some(until);
    let told = cluster.tell("desk", &before);
    assert_eq!((&told.status, told.again), (&before, Some(until)));
    cluster.now.steady = until;
    assert_eq!(cluster.tell("desk", &before).status.condition(PROGRAMMED).unwrap().reason, "Pending");
    // One that has just started has time too; one that says what is wrong has not.
    let (mut fleet, steady) = (Fleet::default(), cluster.now.steady);
    fleet.apply(live("trading", "pod-9", b"", ""), steady);
    cluster.fleet = Some(fleet);
    let told = cluster.tell("desk", &before);
    assert_eq!((&told.status, told.again), (&before, Some(steady + GRACE)));
    cluster.fleet.as_mut().unwrap().apply(live("trading", "pod-9", b"", "does not compile"), steady);
    assert_eq!(cluster.tell("desk", &before).status.condition(PROGRAMMED).unwrap().reason, "Pending");
    // One of another generation has never been in force.
    let mut changed = before.clone();
    for condition in &mut changed.conditions {
        condition.observed_generation = Some(1);
    }
    cluster.fleet.as_mut().unwrap().apply(live("trading", "pod-9", b"", ""), steady);
    assert_eq!(cluster.tell("desk", &changed).status.condition(PROGRAMMED).unwrap().reason, "Pending");
}

#[test]
fn while_the_ledger_is_away_what_was_true_stands() {
    let mut cluster = Cluster::new(small());
    let digest = cluster.digest("trading");
    cluster.live("trading", "pod-1", &digest, "");
    let before = cluster.tell("desk", &Status::default()).status;
    cluster.fleet = None;
    assert_eq!(cluster.tell("desk", &before).status, before);
}

#[test]
fn a_ledger_that_is_back_without_sidecars_says_nothing_before_they_had_time_to_come_back() {
    let mut cluster = Cluster::new(small());
    let digest = cluster.digest("trading");
    let reason = |status: &Status| status.condition(PROGRAMMED).map(|known| (known.status.clone(), known.reason.clone())).unwrap();
    let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    for (running, word) in [(digest.as_slice(), is("True", "Programmed")), (b"old".as_slice(), is("False", "Pending"))] {
        (cluster.fleet, cluster.connected_since) = (None, None);
        cluster.live("trading", "pod-1", running, "");
        let before = cluster.tell("desk", &Status::default()).status;
        assert_eq!(reason(&before), word);
        (cluster.fleet, cluster.connected_since) = (Some(Fleet::default()), Some(cluster.now.steady));
        let told = cluster.tell("desk", &before);
        let until = cluster.now.steady + RETURN;
        assert_eq!((&told.status, told.again, told.happened.len()), (&before, Some(until), 0));
        // One that is new, or has changed since, has no word that could stand.
        assert_eq!(reason(&cluster.tell("desk", &Status::default()).status), is("True", "NoSidecars"));
        cluster.now.steady = until;
        assert_eq!(reason(&cluster.tell("desk", &before).status), is("True", "NoSidecars"));
    }
}

#[test]
fn an_object_of_the_release_is_behind_where_a_tenant_is_held_back_by_its_own() {
    let mut objects = small();
    objects.push(object(Kind::RetryPolicy, "trading", "wrong", &json!({"attempts": 0})));
    let mut cluster = Cluster::new(objects);
    cluster.live("trading", "pod-1", b"last good", "");
    let message = |cluster: &Cluster| {
        let told = cluster.tell("everywhere", &Status::default()).status;
        told.condition(PROGRAMMED).map(|known| format!("{} {}", known.status, known.message)).unwrap()
    };
    assert!(message(&cluster).starts_with("False 0 of 1 sidecars run with it"));
    // Once the ledger has put the release's objects over what it keeps.
    let last_good = Validator::default().validate(&facts(small(), &[]));
    let Plan::Holds { set, .. } = &last_good.tenants["trading"] else { panic!("it holds") };
    cluster.expected.get_mut("trading").unwrap().digest = Some(set.digest());
    let digest = cluster.digest("trading");
    cluster.live("trading", "pod-1", &digest, "");
    assert!(message(&cluster).starts_with("True "));
}
