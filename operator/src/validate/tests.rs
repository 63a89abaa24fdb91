//! What holds, who is held back by whom, and which tenants there are.

use serde_json::json;

use super::*;
use crate::build::build;
use crate::facts::{Namespace, SecretName, SecretState, Trust, TrustCopy};
use crate::fixtures::{RELEASE, facts, key, object, policy, probed, secret, tool};

fn faults(validated: &Validated) -> Vec<(String, Reason)> {
    let told = validated.objects.iter().filter_map(|(object, fault)| Some((object.key.to_string(), fault.as_ref()?.reason)));
    told.collect()
}

fn message(validated: &Validated, of: &Key) -> String {
    let found = validated.objects.iter().find(|(object, _)| object.key == *of).and_then(|(_, fault)| fault.clone());
    found.map(|fault| fault.message).unwrap_or_default()
}

/// `tenant: 2 tools, 1 policies` or `tenant: held by …`.
fn plans(validated: &Validated) -> Vec<String> {
    let line = |(tenant, plan): (&String, &Plan)| match plan {
        Plan::Holds { set, .. } => format!("{tenant}: {} tools, {} policies", set.set().tools.len(), set.set().policies.len()),
        Plan::Behind { set, why, .. } => {
            let names: Vec<&str> = set.set().policies.iter().map(|policy| policy.origin.name.as_str()).collect();
            format!("{tenant}: behind with {}, {}", names.join(" "), why.split(" not hold").next().unwrap_or_default())
        }
        Plan::Kept { set, why, .. } => {
            let why = why.split(" not hold").next().unwrap_or_default();
            format!("{tenant}: kept under {} policies, {why}", set.set().policies.len())
        }
        Plan::Held(why) => format!("{tenant}: held, {}", why.split(" not hold").next().unwrap_or_default()),
    };
    validated.tenants.iter().map(line).collect()
}

fn check(facts: &Facts, wrong: &[(&str, Reason)], tenants: &[&str]) -> Validated {
    let validated = Validator::default().validate(facts);
    let wrong: Vec<(String, Reason)> = wrong.iter().map(|(key, reason)| ((*key).to_owned(), *reason)).collect();
    assert_eq!(faults(&validated), wrong);
    assert_eq!(plans(&validated), tenants);
    validated
}

#[test]
fn a_tenant_runs_with_the_releases_objects_and_its_own() {
    let objects =
        vec![tool(RELEASE, "shared", "a.example.com"), tool("trading", "orders", "b.example.com"), policy("trading", "p", &["orders"])];
    let opted = [("empty", Some("enabled"), None), ("strict", Some("enforced"), None), ("away", Some("disabled"), None)];
    let mut facts = facts(objects, &opted);
    facts.namespaces.insert("pods".to_owned(), Namespace::default());
    facts.namespaces.insert("unlabelled".to_owned(), Namespace::default());
    facts.injected = ["pods".to_owned(), "not-known-yet".to_owned()].into();
    facts.live = ["unlabelled".to_owned()].into();
    check(
        &facts,
        &[],
        &[
            "empty: 1 tools, 0 policies",
            "pods: 1 tools, 0 policies",
            "strict: 1 tools, 0 policies",
            "trading: 2 tools, 1 policies",
            "unlabelled: 1 tools, 0 policies",
        ],
    );
}

#[test]
fn an_object_that_does_not_hold_holds_back_its_namespace_and_no_other() {
    let broken = object(Kind::Policy, "trading", "broken", &json!({"rules": [{"name": "r", "when": "nonsense", "verdict": "Deny"}]}));
    let objects = vec![broken, policy("trading", "good", &[]), policy("other", "good", &[])];
    let validated = check(
        &facts(objects, &[]),
        &[("Policy trading/broken", Reason::Invalid)],
        &["other: 0 tools, 1 policies", "trading: kept under 0 policies, Policy trading/broken does"],
    );
    let told = message(&validated, &key(Kind::Policy, "trading", "broken"));
    assert!(told.starts_with("spec.rules[0].when (line 1, column 1): "), "{told}");
}

#[test]
fn one_of_the_releases_holds_everybody_back() {
    let objects = vec![object(Kind::RetryPolicy, RELEASE, "r", &json!({"attempts": 99})), policy("trading", "good", &[])];
    let validated = check(
        &facts(objects, &[("empty", Some("enabled"), None)]),
        &[("RetryPolicy kybernis-system/r", Reason::Invalid)],
        &["empty: held, RetryPolicy kybernis-system/r does", "trading: held, RetryPolicy kybernis-system/r does"],
    );
    assert!(validated.cluster.held.is_some() && validated.cluster.set.is_none());
}

#[test]
fn conflicts_are_told_on_both_and_who_only_names_a_broken_tool_is_not_blamed() {
    let tie = vec![tool("trading", "a", "x.example.com"), tool("trading", "b", "x.example.com"), policy("trading", "p", &["a"])];
    let validated = check(
        &facts(tie, &[]),
        &[("ToolRegistration trading/a", Reason::Conflict), ("ToolRegistration trading/b", Reason::Conflict)],
        &["trading: kept under 0 policies, ToolRegistration trading/a and 1 other object do"],
    );
    let told = message(&validated, &key(Kind::Tool, "trading", "b"));
    assert!(
        told.contains("conflicts with ToolRegistration trading/a") && told.ends_with("Narrow one of them by method or path."),
        "{told}"
    );

    let later = object(Kind::Tool, "trading", "a", &json!({"match": [{"hosts": ["x.example.com"]}], "cost": {"perCall": "1"}}));
    let objects = vec![later, policy("trading", "names-a", &["a"]), policy("trading", "names-nobody", &["c"])];
    check(
        &facts(objects, &[]),
        &[("ToolRegistration trading/a", Reason::NotYetSupported), ("Policy trading/names-nobody", Reason::Invalid)],
        &["trading: kept under 0 policies, ToolRegistration trading/a and 1 other object do"],
    );
}

#[test]
fn a_budget_is_not_yet_supported_and_holds_nobody_back() {
    let budget = object(Kind::Budget, "trading", "daily", &json!({"per": "Agent"}));
    check(
        &facts(vec![budget, policy("trading", "p", &[])], &[]),
        &[("Budget trading/daily", Reason::NotYetSupported)],
        &["trading: 0 tools, 1 policies"],
    );
}

#[test]
fn a_secret_that_is_not_there_is_told_and_holds_nothing_up_and_its_value_goes_with_the_set() {
    let mut facts = facts(vec![probed("trading", "orders", "a.example.com")], &[]);
    let of = key(Kind::Tool, "trading", "orders");
    let in_force = ["trading: 1 tools, 0 policies"];
    let name = SecretName { namespace: "trading".to_owned(), name: "s".to_owned() };
    for (state, reason, words) in [
        (None, Reason::SecretUnreadable, "has not been read yet"),
        (Some(SecretState::Absent), Reason::SecretNotFound, "there is no Secret trading/s. Add it with the key k"),
        (Some(SecretState::Unreadable("forbidden".to_owned())), Reason::SecretUnreadable, "cannot be read: forbidden"),
        (Some(SecretState::There(BTreeMap::new())), Reason::SecretNotFound, "has no key k"),
    ] {
        facts.secrets = state.into_iter().map(|state| (name.clone(), state)).collect();
        let validated = check(&facts, &[("ToolRegistration trading/orders", reason)], &in_force);
        assert!(build(&facts, &validated).programs["trading"].secrets.is_empty());
        assert!(message(&validated, &of).contains(words), "{}", message(&validated, &of));
    }
    secret(&mut facts, "trading", "k", "v");
    let validated = check(&facts, &[], &in_force);
    let request = build(&facts, &validated).programs["trading"].request("trading");
    let sent: Vec<_> = request.secrets.iter().map(|secret| (secret.name.as_str(), secret.key.as_str(), secret.value.as_slice())).collect();
    assert_eq!(sent, [("s", "k", &b"v"[..])]);
    assert!(!String::from_utf8(request.policy_set).unwrap().contains("\"v\""));
}

#[test]
fn a_tenants_objects_lie_in_one_namespace() {
    let mapped = |name| (name, Some("enabled"), Some("desk"));
    let one = facts(vec![policy("a", "p", &[])], &[mapped("a"), mapped("b")]);
    check(&one, &[], &["desk: 0 tools, 1 policies"]);
    let two = facts(vec![policy("a", "p", &[]), policy("b", "q", &[])], &[mapped("a"), mapped("b")]);
    let validated = Validator::default().validate(&two);
    assert_eq!(faults(&validated), [("Policy a/p".to_owned(), Reason::Conflict), ("Policy b/q".to_owned(), Reason::Conflict)]);
    assert!(matches!(&validated.tenants["desk"], Plan::Kept { why, .. } if why.contains("a, b are all mapped to the tenant desk")));
    let bad = facts(vec![policy("a", "p", &[])], &[("a", None, Some("Not.A_Label"))]);
    let validated = check(&bad, &[("Policy a/p", Reason::Invalid)], &[]);
    assert!(message(&validated, &key(Kind::Policy, "a", "p")).contains("is no tenant"));
}

#[test]
fn what_has_not_changed_is_not_judged_again() {
    let mut validator = Validator::default();
    let set = |validated: &Validated, tenant: &str| match &validated.tenants[tenant] {
        Plan::Holds { set, .. } => Arc::as_ptr(set),
        Plan::Behind { why, .. } | Plan::Kept { why, .. } | Plan::Held(why) => panic!("{why}"),
    };
    let before = validator.validate(&facts(vec![policy("a", "p", &[]), policy("b", "p", &[])], &[]));
    let after = validator.validate(&facts(vec![policy("a", "p", &[]), policy("b", "q", &[])], &[]));
    assert_eq!(set(&before, "a"), set(&after, "a"));
    assert_ne!(set(&before, "b"), set(&after, "b"));
    let all = validator.validate(&facts(vec![policy("a", "p", &[]), policy("b", "q", &[]), policy(RELEASE, "p", &[])], &[]));
    assert_ne!(set(&after, "a"), set(&all, "a"));
}

#[test]
fn who_breaks_an_object_of_his_own_keeps_no_rule_of_the_clusters_off() {
    let broken_in = |namespace, name| {
        let mut changed = (*object(Kind::Policy, namespace, name, &json!({"mode": "Sometimes"}))).clone();
        changed.generation += 1;
        Arc::new(changed)
    };
    let broken = |name| broken_in("trading", name);
    let mut validator = Validator::default();
    let mut plans_of = |objects: Vec<Arc<Object>>| plans(&validator.validate(&facts(objects, &[])));
    plans_of(vec![policy("trading", "own", &[]), policy(RELEASE, "old", &[])]);
    // The cluster's rule changes while the namespace's object is broken: the last good one stays, beside the new one.
    let culprit = "Policy trading/own does";
    assert_eq!(plans_of(vec![broken("own"), policy(RELEASE, "old", &[])]), [format!("trading: behind with old own, {culprit}")]);
    assert_eq!(plans_of(vec![broken("own"), policy(RELEASE, "new", &[])]), [format!("trading: behind with new own, {culprit}")]);
    // One that has never held has no last good state, and none that went is brought back; what the ledger has of it, it keeps.
    let added = plans_of(vec![policy("trading", "own", &[]), broken("more"), policy(RELEASE, "new", &[])]);
    assert_eq!(added, ["trading: behind with new own, Policy trading/more does"]);
    plans_of(vec![policy(RELEASE, "new", &[])]);
    assert_eq!(plans_of(vec![broken("own"), policy(RELEASE, "new", &[])]), [format!("trading: kept under 1 policies, {culprit}")]);
    // A release's object that is broken itself holds everybody back all the same.
    plans_of(vec![policy("trading", "own", &[]), policy(RELEASE, "new", &[])]);
    let all = plans_of(vec![broken("own"), broken_in(RELEASE, "new")]);
    assert_eq!(all, ["trading: held, Policy kybernis-system/new does"]);
    assert_eq!(plans_of(vec![broken("own"), policy(RELEASE, "newer", &[])]), [format!("trading: behind with newer own, {culprit}")]);
}

#[test]
fn a_namespace_that_is_being_deleted_keeps_what_was_in_force_to_its_end() {
    let mut facts = facts(vec![policy("trading", "p", &[])], &[("trading", Some("enabled"), None)]);
    check(&facts, &[], &["trading: 0 tools, 1 policies"]);
    facts.namespaces.get_mut("trading").unwrap().terminating = true;
    // What is deleted with it has gone first.
    facts.objects.clear();
    check(&facts, &[], &["trading: kept under 0 policies, a namespace of tenant trading is being deleted."]);
}

#[test]
fn copies_of_the_ca_are_made_and_mended_where_they_are_wrong() {
    let mut facts = facts(Vec::new(), &["new", "right", "wrong", "unlabelled", "ending"].map(|name| (name, Some("enabled"), None)));
    let trust = |ca: &str| Trust { ca: ca.to_owned(), roots: Some("ROOTS".to_owned()) };
    let copy = |ca: &str, ours| TrustCopy { trust: Some(trust(ca)), ours };
    facts.namespaces.get_mut("ending").unwrap().terminating = true;
    facts.copies = [("right", copy("CA", true)), ("wrong", copy("other", true)), ("unlabelled", copy("CA", false))]
        .map(|(name, copy)| (name.to_owned(), copy))
        .into();
    let validated = Validator::default().validate(&facts);
    assert_eq!(build(&facts, &validated).trust, None, "the ledger has not published it");
    facts.trust = Some(trust("CA"));
    let (given, wrong) = build(&facts, &validated).trust.unwrap();
    assert_eq!((given, wrong.join(" ").as_str()), (trust("CA"), "new unlabelled wrong"));
    facts.trust = Some(Trust { roots: None, ..trust("CA") });
    let (_, wrong) = build(&facts, &validated).trust.unwrap();
    assert_eq!(wrong.join(" "), "new right unlabelled wrong", "roots that nobody vouches for any more go");
}
