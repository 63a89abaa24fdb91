//! Which objects should be there, case by case.

use kube::core::DynamicObject;
use kybernis_proto::v1;
use serde_json::json;

use super::*;
use crate::facts::Namespace;
use crate::fixtures::{gate, now};
use crate::gates::build::build;
use crate::ledger::Gates;

const DAY: u64 = 24 * 3600;

struct Cluster {
    gates: Gates,
    objects: Vec<Found>,
    namespaces: BTreeMap<String, Namespace>,
    now: Now,
}

impl Cluster {
    /// With the namespace `trading`, at the tenth day.
    fn new() -> Self {
        let namespaces = BTreeMap::from([("trading".to_owned(), Namespace::default())]);
        Self { gates: Gates::default(), objects: Vec::new(), namespaces, now: now(10 * 24 * 3600) }
    }

    fn gate(mut self, state: v1::GateState) -> Self {
        self.gates.apply(v1::GateUpdate { update: Some(v1::gate_update::Update::Gate(state)) });
        self
    }

    /// The object that this gate should have.
    fn shown(mut self, state: v1::GateState) -> Self {
        let made = build(&[Arc::new(Gate::try_from(state).unwrap())]).remove(0).1;
        let mut object = serde_json::to_value(made).unwrap();
        object["metadata"]["uid"] = json!(format!("uid-{}", self.objects.len()));
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        self.objects.push(Found::read(&object).unwrap());
        self
    }

    fn facts(&self) -> Facts {
        let (objects, namespaces) = (self.objects.clone(), self.namespaces.clone());
        Facts { gates: Arc::new(self.gates.clone()), objects, namespaces, now: self.now }
    }
}

fn lines(validated: &Validated) -> Vec<String> {
    let absent = validated.absent.iter().map(|gate| format!("make {}", gate.place));
    let present = validated.present.iter().map(|(found, _)| format!("show {}", found.place));
    let surplus = validated.surplus.iter().map(|(found, why)| format!("remove {}: {why:?}", found.place));
    absent.chain(present).chain(surplus).collect()
}

fn ended(name: &str, second: u64) -> v1::GateState {
    v1::GateState { ended_at_ms: Some(second * 1000), phase: v1::GatePhase::Denied.into(), ..gate(name) }
}

#[test]
fn each_gate_has_its_object_and_no_other_object_stays() {
    let check = |cluster: &Cluster, expect: &[&str]| assert_eq!(lines(&Validator::new(MOMENT).validate(cluster.facts())), expect);
    check(&Cluster::new().gate(gate("a")), &["make trading/a"]);
    check(&Cluster::new().gate(gate("a")).shown(gate("a")), &["show trading/a"]);
    let other = v1::GateState { required: 1, ..gate("a") };
    check(&Cluster::new().gate(gate("a")).shown(other), &["remove trading/a: Differs"]);
    let elsewhere = v1::GateState { agent: "elsewhere/a/Deployment/a".to_owned(), ..gate("a") };
    check(&Cluster::new().gate(elsewhere), &[]);
    check(&Cluster::new().gate(gate("No_Name")), &[]);
    check(&Cluster::new().gate(v1::GateState { agent: String::new(), ..gate("a") }), &[]);

    let mut ending = Cluster::new().gate(gate("a"));
    ending.namespaces.get_mut("trading").unwrap().terminating = true;
    check(&ending, &[]);
    // One on its way out makes room first, whoever holds it up.
    let mut leaving = Cluster::new().gate(gate("a")).shown(gate("a"));
    leaving.objects[0].deleting = true;
    check(&leaving, &[]);
    let mut unread = Cluster::new().gate(gate("a")).shown(gate("a"));
    unread.objects[0].spec = None;
    check(&unread, &["remove trading/a: Differs"]);
    // What a newer ledger tells may be this gate.
    let strange = v1::GateState { phase: 99, ..gate("a") };
    check(&Cluster::new().gate(strange).shown(gate("a")), &[]);
}

#[test]
fn an_object_goes_a_day_after_its_gates_end_to_the_second() {
    let mut cluster = Cluster::new().gate(ended("a", 9 * DAY + 1)).shown(gate("a"));
    let mut validator = Validator::new(MOMENT);
    let validated = validator.validate(cluster.facts());
    assert_eq!(lines(&validated), ["show trading/a"]);
    assert_eq!(validated.again, Some(cluster.now.steady + Duration::from_secs(1)));
    cluster.now = Now { wall: now(10 * 24 * 3600 + 1).wall, ..cluster.now };
    assert_eq!(lines(&validator.validate(cluster.facts())), ["remove trading/a: Over"]);
    cluster.objects.clear();
    assert!(lines(&validator.validate(cluster.facts())).is_empty(), "and is not made again");
    // The ledger may have stopped to tell of it.
    let mut untold = Cluster::new().shown(gate("a"));
    untold.objects[0].status.ended_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now(9 * 24 * 3600).wall));
    assert_eq!(lines(&validator.validate(untold.facts())), ["remove trading/a: Over"]);
}

#[test]
fn an_object_of_which_nobody_knows_the_gate_is_left_alone_for_a_moment_and_while_the_ledger_cannot_tell_of_all() {
    let mut partly = Cluster::new().shown(gate("a"));
    partly.gates.apply(v1::GateUpdate { update: Some(v1::gate_update::Update::Synced(v1::Synced { partial: true })) });
    assert!(lines(&Validator::new(Duration::ZERO).validate(partly.facts())).is_empty());

    let mut cluster = Cluster::new().shown(gate("a"));
    let mut validator = Validator::new(MOMENT);
    let began = cluster.now.steady;
    let mut at = |cluster: &mut Cluster, after: Duration| {
        cluster.now.steady = began + after;
        let validated = validator.validate(cluster.facts());
        (lines(&validated), validated.again)
    };
    assert_eq!(at(&mut cluster, Duration::ZERO), (Vec::new(), Some(began + MOMENT)));
    assert_eq!(at(&mut cluster, MOMENT / 2), (Vec::new(), Some(began + MOMENT)));
    // The ledger tells of it: all is well, and the moment begins anew if it is unknown again.
    cluster = cluster.gate(gate("a"));
    assert_eq!(at(&mut cluster, MOMENT).0, ["show trading/a"]);
    cluster.gates = Gates::default();
    assert_eq!(at(&mut cluster, MOMENT * 2), (Vec::new(), Some(began + MOMENT * 3)));
    assert_eq!(at(&mut cluster, MOMENT * 3).0, ["remove trading/a: Unknown"]);
}
