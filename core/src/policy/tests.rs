//! The rules of policy as tests: matching, levels, verdicts, settings, retries. Each set is written as its serialised form.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::cel::{Facts, RequestFacts};
use crate::json::Json;
use crate::time::Millis;

const CLUSTER: &str = "kybernis-system";
const OWN: &str = "trading";

fn origin(namespace: &str, name: &str) -> Value {
    let level = if namespace == CLUSTER { "Cluster" } else { "Namespace" };
    json!({"level": level, "namespace": namespace, "name": name})
}

/// A registration for one host, with further members.
fn tool(namespace: &str, name: &str, matches: Value, effect: Value, class: Value) -> Value {
    let matches: Vec<Value> = matches
        .as_array()
        .unwrap()
        .iter()
        .map(|found| {
            let mut full = json!({"hosts": [], "methods": [], "paths": []});
            full.as_object_mut().unwrap().extend(found.as_object().unwrap().clone());
            full
        })
        .collect();
    json!({"origin": origin(namespace, name), "display_name": null, "matches": matches, "class": class,
           "effect": effect, "request_schema": null})
}

fn rule(name: &str, scope: Value, when: Option<&str>, verdict: Value) -> Value {
    let mut full = json!({"tools": [], "hosts": [], "methods": [], "class": null});
    full.as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
    json!({"name": name, "scope": full, "when": when, "verdict": verdict, "reason": format!("because of {name}")})
}

fn policy(namespace: &str, name: &str, rules: &[Value], more: Value) -> Value {
    let mut full = json!({
        "origin": origin(namespace, name), "selector": {"equal": {}, "requirements": []}, "mode": "Enforce", "default": "Allow",
        "failure_mode": null, "body_bytes": null, "derived_keys": null, "rules": rules, "uninspected": [], "delegates": [],
    });
    full.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    full
}

fn retry(namespace: &str, name: &str, scope: Value, attempts: u32, statuses: &[u16]) -> Value {
    let mut full = json!({"tools": [], "hosts": [], "methods": [], "class": null});
    full.as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
    json!({"origin": origin(namespace, name), "scope": full, "terms": {
        "attempts": attempts, "per_try_timeout": 5000, "backoff_base": 100, "backoff_max": 5000, "statuses": statuses,
        "connect_failure": true, "reset": true, "honour_retry_after": true}})
}

fn approval(required: u32) -> Value {
    json!({"RequireApproval": {"required": required, "class": "desk-heads", "expires_after": 3_600_000, "hold_for": 0}})
}

fn set(tools: &[Value], policies: &[Value], retries: &[Value]) -> PolicySet {
    serde_json::from_value(json!({"tools": tools, "policies": policies, "retries": retries})).unwrap()
}

fn compiled(tools: &[Value], policies: &[Value], retries: &[Value]) -> Arc<CompiledSet> {
    Arc::new(CompiledSet::compile(set(tools, policies, retries)).unwrap_or_else(|errors| panic!("{errors:?}")))
}

fn refused(tools: &[Value], policies: &[Value]) -> Vec<String> {
    CompiledSet::compile(set(tools, policies, &[])).unwrap_err().iter().map(ToString::to_string).collect()
}

fn call(method: &str, host: &str, path: &str) -> CallHead {
    CallHead::new(method, None, host, 443, path).unwrap()
}

fn facts(body: &Value) -> Facts {
    let body = Json::parse(body.to_string().as_bytes()).unwrap();
    Facts::new().with_request(&RequestFacts {
        method: "POST",
        scheme: "https",
        host: "broker.example.com",
        port: 443,
        path: "/v1/orders",
        query: "",
        headers: &[],
        body: Some(&body),
    })
}

fn judge(set: &Arc<CompiledSet>, call: &CallHead, body: &Value) -> Judgement {
    set.for_agent(&Labels::new()).judge(call, &set.resolve(call), &facts(body))
}

/// `verdict policy_id`, as most tests compare it.
fn verdict(set: &Arc<CompiledSet>, call: &CallHead, body: &Value) -> String {
    let judged = judge(set, call, body);
    match judged.verdict {
        Verdict::Deny(denial) => format!("{} {}", denial.code().row().code, judged.policy_id),
        Verdict::Allow | Verdict::RequireApproval(_) => format!("{} {}", judged.verdict.name(), judged.policy_id),
    }
}

mod matching {
    use super::*;

    #[test]
    fn an_unregistered_call_has_the_class_of_its_method_and_host() {
        let set = compiled(&[], &[], &[]);
        let check = |method: &str, host: &str, class, name: &str| {
            let tool = set.resolve(&call(method, host, "/"));
            assert_eq!((tool.class(), tool.name().as_str(), tool.is_registered()), (class, name, false));
        };
        check("GET", "a.example.com", Class::Read, "a.example.com");
        check("HEAD", "api.openai.com", Class::Read, "api.openai.com");
        check("POST", "api.openai.com", Class::Llm, "api.openai.com");
        check("POST", "a.example.com", Class::SideEffect, "a.example.com");
        check("PROPFIND", "a.example.com", Class::SideEffect, "a.example.com");
        let hidden = CallHead::new("GET", Some("DELETE"), "a.example.com", 8443, "/").unwrap();
        let tool = set.resolve(&hidden);
        assert_eq!((tool.class(), tool.name().as_str()), (Class::SideEffect, "a.example.com:8443"));
    }

    #[test]
    fn a_name_beyond_the_bound_stays_one_of_its_own() {
        let set = compiled(&[], &[], &[]);
        let long = |last: &str| format!("{}.{last}.example.com", vec!["x".repeat(60); 3].join("."));
        let name = |last: &str| set.resolve(&call("GET", &long(last), "/")).name().to_string();
        assert!(name("a").len() <= crate::ids::NAME_MAX);
        assert_ne!(name("a"), name("b"));
    }

    #[test]
    fn the_most_specific_registration_wins() {
        let of = |name: &str, found: Value| tool(OWN, name, json!([found]), json!({}), Value::Null);
        let set = compiled(
            &[
                of("wide", json!({"hosts": ["*.example.com"]})),
                of("narrower", json!({"hosts": ["*.b.example.com"]})),
                of("host", json!({"hosts": ["a.b.example.com"]})),
                of("port", json!({"hosts": ["a.b.example.com:8443"]})),
                of("prefix", json!({"hosts": ["a.b.example.com"], "paths": [{"type": "Prefix", "value": "/v1"}]})),
                of("longer", json!({"hosts": ["a.b.example.com"], "paths": [{"type": "Prefix", "value": "/v1/o"}]})),
                of("template", json!({"hosts": ["a.b.example.com"], "paths": [{"type": "Template", "value": "/v1/o/{id}"}]})),
                of("exact", json!({"hosts": ["a.b.example.com"], "paths": [{"type": "Exact", "value": "/v1/o/7"}]})),
                of(
                    "method",
                    json!({"hosts": ["a.b.example.com"], "methods": ["PUT"],
                                    "paths": [{"type": "Exact", "value": "/v1/o/7"}]}),
                ),
            ],
            &[],
            &[],
        );
        let check = |method: &str, host: &str, port: u16, path: &str, expect: &str| {
            let call = CallHead::new(method, None, host, port, path).unwrap();
            assert_eq!(set.resolve(&call).name().as_str(), expect, "{method} {host}:{port}{path}");
        };
        check("POST", "x.example.com", 443, "/", "wide");
        check("POST", "x.b.example.com", 443, "/", "narrower");
        check("POST", "y.x.b.example.com", 443, "/", "narrower");
        check("POST", "a.b.example.com", 443, "/", "host");
        check("POST", "a.b.example.com", 8443, "/v1/o/7", "port");
        check("POST", "a.b.example.com", 443, "/v1/x", "prefix");
        check("POST", "a.b.example.com", 443, "/v1/o", "longer");
        check("POST", "a.b.example.com", 443, "/v1/o/8", "template");
        check("POST", "a.b.example.com", 443, "/v1//o/%37", "exact");
        check("PUT", "a.b.example.com", 443, "/v1/o/7", "method");
        check("POST", "example.com", 443, "/", "example.com");
    }

    #[test]
    fn a_tie_is_told_on_both_and_only_a_real_one() {
        let of = |name: &str, found: Value| tool(OWN, name, json!([found]), json!({}), Value::Null);
        let template = |value: &str| json!({"hosts": ["a.example.com"], "paths": [{"type": "Template", "value": value}]});
        let errors = refused(&[of("one", template("/o/{id}")), of("two", template("/o/{name}"))], &[]);
        assert_eq!(
            errors,
            [
                "ToolRegistration trading/one: spec.match[0]: conflicts with ToolRegistration trading/two: for a.example.com both match equally specific. Narrow one of them by method or path",
                "ToolRegistration trading/two: spec.match[0]: conflicts with ToolRegistration trading/one: for a.example.com both match equally specific. Narrow one of them by method or path",
            ],
        );
        compiled(&[of("one", template("/o/{id}")), of("two", template("/p/{id}"))], &[], &[]);
        compiled(&[of("one", template("/{a}/b")), of("two", template("/a/{b}"))], &[], &[]);
        let by_method = |method: &str| json!({"hosts": ["a.example.com"], "methods": [method]});
        compiled(&[of("one", by_method("POST")), of("two", by_method("PUT"))], &[], &[]);
        let cluster = tool(CLUSTER, "one", json!([{"hosts": ["a.example.com"]}]), json!({}), Value::Null);
        compiled(&[cluster, of("one", json!({"hosts": ["a.example.com"]}))], &[], &[]);
    }

    #[test]
    fn a_caller_may_name_only_a_tool_that_means_the_call() {
        let orders = tool(OWN, "orders", json!([{"hosts": ["a.example.com"], "methods": ["POST"]}]), json!({}), Value::Null);
        let set = compiled(&[orders], &[], &[]);
        assert!(set.tool_fits("orders", &call("POST", "a.example.com", "/")));
        assert!(!set.tool_fits("orders", &call("PUT", "a.example.com", "/")));
        assert!(!set.tool_fits("others", &call("POST", "a.example.com", "/")));
    }
}

mod levels {
    use super::*;

    fn both(cluster: Value, own: Value, class: (Value, Value)) -> EffectiveTool {
        let hosts = json!([{"hosts": ["a.example.com"]}]);
        let tools = [tool(CLUSTER, "theirs", hosts.clone(), cluster, class.0), tool(OWN, "ours", hosts, own, class.1)];
        compiled(&tools, &[], &[]).resolve(&call("POST", "a.example.com", "/"))
    }

    #[test]
    fn each_trust_field_takes_its_stricter_value() {
        let probe = |url: &str| {
            json!({"url": url, "method": "GET", "headers": {}, "secret_ref": null, "executed_when": "true",
                   "not_executed_when": null, "initial_delay": 0, "interval": 1, "settle_horizon": null, "give_up_after": 1})
        };
        let tool = both(
            json!({"idempotent": false, "not_executed_statuses": [503, 429], "probe": probe("'https://theirs/'"),
                   "volatile": ["/a", "/b"], "upstream_key_ttl": 1000, "retention": 1000, "key": "'theirs'"}),
            json!({"idempotent": true, "not_executed_statuses": [503, 500], "probe": probe("'https://ours/'"),
                   "volatile": ["/b", "/c"], "upstream_key_ttl": 500, "retention": 500, "key": "'ours'"}),
            (json!("SideEffect"), json!("Read")),
        );
        assert_eq!(tool.class(), Class::SideEffect);
        assert!(!tool.is_idempotent());
        assert_eq!([503, 429, 500].map(|status| tool.is_not_executed(status)), [true, false, false]);
        let none = facts(&json!({}));
        assert_eq!(tool.probe().unwrap().render(&none).unwrap().url, "https://theirs/");
        assert_eq!(tool.volatile().iter().map(ToString::to_string).collect::<Vec<_>>(), ["/b"]);
        assert_eq!(tool.upstream_key_ttl(), Some(Millis::new(500)));
        assert_eq!(tool.retention(), Millis::new(1000));
        assert_eq!(tool.effect_keys(&none).unwrap().unwrap(), ["theirs"]);
        assert_eq!((tool.name().as_str(), tool.key_scope().as_str()), ("ours", "kybernis-system/theirs"));
    }

    #[test]
    fn where_the_cluster_says_nothing_the_namespaces_word_holds() {
        let own = json!({"idempotent": true, "not_executed_statuses": [503], "key": "'ours'", "volatile": ["/a"],
                         "upstream_key_header": "idempotency-key", "retention": 500, "principal": "None"});
        let tool = both(json!({}), own, (Value::Null, json!("Read")));
        assert_eq!(tool.class(), Class::Read);
        assert!(tool.is_idempotent() && tool.is_repeatable() && tool.is_not_executed(503));
        assert_eq!(tool.retention(), Millis::new(500));
        let none = facts(&json!({}));
        assert_eq!(tool.effect_keys(&none).unwrap().unwrap(), ["ours"]);
        assert_eq!(tool.key_scope().as_str(), "ours");
        assert_eq!(tool.principal(&none), Ok(PrincipalWord::None));
    }

    #[test]
    fn a_namespace_makes_nothing_repeatable_that_the_cluster_has_spoken_of() {
        let check = |cluster: Value, own: Value, repeatable: bool, idempotent: bool, header: Option<&str>| {
            let tool = both(cluster.clone(), own.clone(), (Value::Null, Value::Null));
            let found = (tool.is_repeatable(), tool.is_idempotent(), tool.upstream_key_header());
            assert_eq!(found, (repeatable, idempotent, header), "{cluster} {own}");
        };
        let (once, safe) = (json!({"idempotent": false}), json!({"idempotent": true}));
        let keyed = |name: &str| json!({"upstream_key_header": name, "upstream_key_ttl": 1000});
        let (theirs, ours) = (keyed("x-theirs"), keyed("x-ours"));
        let once_keyed = json!({"idempotent": false, "upstream_key_header": "x-theirs"});
        check(once.clone(), ours.clone(), false, false, Some("x-ours"));
        check(once.clone(), json!({"idempotent": true, "upstream_key_header": "x-ours"}), false, false, Some("x-ours"));
        check(json!({}), ours.clone(), true, false, Some("x-ours"));
        check(safe.clone(), ours.clone(), true, true, Some("x-ours"));
        check(once_keyed.clone(), json!({}), true, false, Some("x-theirs"));
        check(once_keyed, ours, true, false, Some("x-theirs"));
        // Safe under a key is not safe for ever.
        check(theirs.clone(), safe.clone(), true, false, Some("x-theirs"));
        check(theirs, once.clone(), false, false, Some("x-theirs"));
        check(safe.clone(), once, false, false, None);
        check(json!({}), safe, true, true, None);
    }

    #[test]
    fn a_namespace_cannot_name_its_way_into_a_cluster_rule() {
        let ours = tool(OWN, "approved", json!([{"hosts": ["a.example.com"]}]), json!({}), Value::Null);
        let theirs = tool(CLUSTER, "approved", json!([{"hosts": ["b.example.com"]}]), json!({}), Value::Null);
        let list =
            policy(CLUSTER, "list", &[rule("only", json!({"tools": ["approved"]}), None, json!("Allow"))], json!({"default": "Deny"}));
        let set = compiled(&[ours, theirs], &[list], &[]);
        assert_eq!(verdict(&set, &call("POST", "a.example.com", "/"), &json!({})), "egress_denied kybernis-system/list");
        assert_eq!(verdict(&set, &call("POST", "b.example.com", "/"), &json!({})), "allow kybernis-system/only");
    }

    #[test]
    fn a_host_that_no_rule_could_allow_is_out_of_reach() {
        let theirs = tool(CLUSTER, "approved", json!([{"hosts": ["tool.example.com:8443"], "methods": ["PUT"]}]), json!({}), Value::Null);
        let ours = tool(OWN, "approved", json!([{"hosts": ["own.example.com"]}]), json!({}), Value::Null);
        let check = |policies: &[Value], reached: &[&str], refused: &[&str]| {
            let agent = compiled(&[theirs.clone(), ours.clone()], policies, &[]).for_agent(&Labels::new());
            for (hosts, expect) in [(reached, true), (refused, false)] {
                for host in hosts {
                    assert_eq!(agent.may_reach(&Host::new(host).unwrap()), expect, "{host} {policies:?}");
                }
            }
        };
        let hosts = |verdict: Value| rule("hosts", json!({"hosts": ["pay.example.com:8443", "*.in.example.com"]}), Some("false"), verdict);
        let deny = |namespace, rules: &[Value]| policy(namespace, "list", rules, json!({"default": "Deny"}));
        check(&[], &["evil.test"], &[]);
        check(&[policy(OWN, "own", &[hosts(json!("Deny"))], json!({}))], &["evil.test", "pay.example.com"], &[]);
        check(&[deny(OWN, &[])], &[], &["pay.example.com"]);
        let listed = ["pay.example.com", "PAY.example.com.", "a.b.in.example.com"];
        check(&[deny(OWN, &[hosts(json!("Allow"))])], &listed, &["evil.test", "in.example.com", "data.pay.example.com"]);
        check(&[deny(OWN, &[hosts(approval(1))])], &listed, &["evil.test"]);
        check(&[deny(OWN, &[hosts(json!("Deny"))])], &[], &listed);
        let tools = rule("tools", json!({"tools": ["approved"]}), None, json!("Allow"));
        // A cluster's rule means the cluster's registration, whatever a namespace names.
        check(&[deny(CLUSTER, std::slice::from_ref(&tools))], &["tool.example.com"], &["own.example.com"]);
        check(&[deny(OWN, &[tools])], &["tool.example.com", "own.example.com"], &["evil.test"]);
        let reads = rule("reads", json!({"methods": ["GET"]}), None, json!("Allow"));
        check(&[deny(OWN, std::slice::from_ref(&reads))], &["evil.test"], &[]);
        // Each list must have it.
        check(&[deny(CLUSTER, &[hosts(json!("Allow"))]), deny(OWN, &[reads])], &listed, &["evil.test"]);
        check(&[policy(OWN, "own", &[], json!({"default": "Deny", "mode": "Audit"}))], &["evil.test"], &[]);
        let pinned = json!({"default": "Deny", "uninspected": ["pinned.example.com:5432"]});
        check(&[policy(CLUSTER, "all", &[], pinned)], &["pinned.example.com"], &["evil.test"]);
    }

    #[test]
    fn a_namespace_loosens_only_what_the_cluster_delegates() {
        let own = policy(OWN, "own", &[], json!({"failure_mode": "Open", "uninspected": ["pinned.example.com"]}));
        let host = Host::new("pinned.example.com").unwrap();
        let settings = |policies: &[Value]| compiled(&[], policies, &[]).for_agent(&Labels::new()).settings().clone();
        let alone = settings(std::slice::from_ref(&own));
        assert_eq!((alone.failure_mode, alone.is_uninspected(&host, 443)), (FailureMode::Closed, false));
        let delegates = policy(CLUSTER, "all", &[], json!({"delegates": ["FailureModeOpen", "Uninspected"]}));
        let both = settings(&[delegates.clone(), own.clone()]);
        assert_eq!((both.failure_mode, both.is_uninspected(&host, 443)), (FailureMode::Open, true));
        let vain = |policies: &[Value]| {
            let set = set(&[], policies, &[]);
            undelegated(&set.policies).iter().map(|(origin, what)| format!("{} {}", origin.name, what.field())).collect::<Vec<_>>()
        };
        let some = policy(CLUSTER, "all", &[], json!({"delegates": ["Uninspected"], "failure_mode": "Open"}));
        assert_eq!(vain(std::slice::from_ref(&own)), ["own failureMode", "own uninspected"]);
        assert_eq!(vain(&[some, own.clone()]), ["own failureMode"]);
        assert_eq!(vain(&[delegates.clone(), own.clone(), policy(OWN, "quiet", &[], json!({"failure_mode": "Closed"}))]), [""; 0]);
        let closed = policy(CLUSTER, "all", &[], json!({"delegates": ["FailureModeOpen"], "failure_mode": "Closed"}));
        assert_eq!(settings(&[closed, own]).failure_mode, FailureMode::Closed);
        let errors = refused(&[], &[policy(OWN, "own", &[], json!({"delegates": ["Uninspected"]}))]);
        assert_eq!(errors.len(), 1, "{errors:?}");
    }

    #[test]
    fn settings_take_the_widest_bound_and_the_reach_that_meets_most() {
        let with = |name: &str, more: Value| policy(OWN, name, &[], more);
        let set = compiled(
            &[],
            &[
                with("a", json!({"body_bytes": 1000, "derived_keys": {"mode": "Off", "window": 900_000}})),
                with("b", json!({"body_bytes": 2000, "derived_keys": {"mode": "Default", "window": 600_000}})),
            ],
            &[],
        );
        let agent = set.for_agent(&Labels::new());
        assert_eq!(agent.settings().body_bytes, 2000);
        assert_eq!(agent.settings().derived_keys, DerivedKeys { mode: DerivedMode::Default, window: Millis::new(900_000) });
        let none = compiled(&[], &[], &[]).for_agent(&Labels::new());
        assert_eq!(none.settings().body_bytes, DEFAULT_BODY_BYTES);
        assert_eq!(none.settings().derived_keys.window, DEFAULT_DERIVED_WINDOW);
    }
}

mod verdicts {
    use super::*;

    const LARGE: &str = "request.body.qty * request.body.price > 10000";

    #[test]
    fn the_strictest_verdict_wins() {
        let rules = |names: &[(&str, Value)]| names.iter().map(|(name, v)| rule(name, json!({}), None, v.clone())).collect::<Vec<_>>();
        let check = |names: &[(&str, Value)], expect: &str| {
            let set = compiled(&[], &[policy(OWN, "p", &rules(names), json!({}))], &[]);
            assert_eq!(verdict(&set, &call("POST", "a.example.com", "/"), &json!({})), expect);
        };
        check(&[("a", json!("Allow")), ("b", approval(1)), ("c", json!("Deny"))], "policy_denied trading/c");
        check(&[("a", json!("Allow")), ("b", approval(1)), ("c", approval(2))], "require_approval trading/c");
        check(&[("a", json!("Allow"))], "allow trading/a");
        check(&[], "allow ");
    }

    #[test]
    fn a_namespace_cannot_put_its_own_people_in_the_place_of_the_clusters() {
        let check = |cluster: u32, own: u32, expect: (&str, u32)| {
            let mine = json!({"RequireApproval": {"required": own, "class": "own-team", "expires_after": 1, "hold_for": 0}});
            let (theirs, mine) = (rule("theirs", json!({}), None, approval(cluster)), rule("mine", json!({}), None, mine));
            let set = compiled(&[], &[policy(OWN, "a", &[mine], json!({})), policy(CLUSTER, "b", &[theirs], json!({}))], &[]);
            let judged = judge(&set, &call("POST", "a.example.com", "/"), &json!({}));
            let Verdict::RequireApproval(rule) = judged.verdict else { panic!("{:?}", judged.verdict) };
            assert_eq!((rule.class.as_str(), rule.required), expect);
        };
        check(1, 2, ("desk-heads", 2));
        check(2, 1, ("desk-heads", 2));
    }

    #[test]
    fn a_rule_fires_where_its_scope_and_its_expression_say() {
        let orders = tool(OWN, "orders", json!([{"hosts": ["broker.example.com"], "methods": ["POST"]}]), json!({}), Value::Null);
        let large = rule("large", json!({"tools": ["orders"]}), Some(LARGE), approval(2));
        let metadata = rule("metadata", json!({"hosts": ["169.254.169.254"]}), None, json!("Deny"));
        let llm = rule("llm", json!({"class": "LLM"}), None, json!("Deny"));
        let put = rule("put", json!({"methods": ["PUT"]}), None, json!("Deny"));
        let set = compiled(&[orders], &[policy(OWN, "p", &[large, metadata, llm, put], json!({}))], &[]);
        let check = |method: &str, host: &str, body: Value, expect: &str| {
            assert_eq!(verdict(&set, &call(method, host, "/v1/orders"), &body), expect, "{method} {host} {body}");
        };
        check("POST", "broker.example.com", json!({"qty": 500, "price": 190.0}), "require_approval trading/large");
        check("POST", "broker.example.com", json!({"qty": 5, "price": 190.5}), "allow ");
        check("POST", "other.example.com", json!({"qty": 500, "price": 190.0}), "allow ");
        check("GET", "0xa9fea9fe", json!({}), "policy_denied trading/metadata");
        check("POST", "api.anthropic.com", json!({}), "policy_denied trading/llm");
        check("PUT", "other.example.com", json!({}), "policy_denied trading/put");
    }

    #[test]
    fn an_error_or_a_non_boolean_in_when_refuses_and_names_the_rule() {
        let check = |when: &str, body: Value, part: &str| {
            let set = compiled(&[], &[policy(OWN, "p", &[rule("r", json!({}), Some(when), json!("Allow"))], json!({}))], &[]);
            let judged = judge(&set, &call("POST", "a.example.com", "/"), &body);
            assert_eq!((judged.verdict, judged.policy_id.as_str()), (Verdict::Deny(Denial::Error), "trading/r"));
            let reason = judged.reason.unwrap();
            assert!(reason.starts_with("rule r of Policy trading/p: when: ") && reason.contains(part), "{reason}");
        };
        check(LARGE, json!({"qty": 1}), "price");
        check("request.body.qty", json!({"qty": 1}), "expected true or false, got an integer");
    }

    #[test]
    fn default_deny_makes_the_rules_an_allow_list() {
        let allow = rule("reads", json!({"hosts": ["a.example.com"], "methods": ["GET"]}), None, json!("Allow"));
        let ask = rule("writes", json!({"hosts": ["a.example.com"], "methods": ["POST"]}), None, approval(1));
        let set = compiled(&[], &[policy(OWN, "p", &[allow, ask], json!({"default": "Deny"}))], &[]);
        let check = |call: &CallHead, expect: &str| assert_eq!(verdict(&set, call, &json!({})), expect);
        check(&call("GET", "a.example.com", "/"), "allow trading/reads");
        check(&call("POST", "a.example.com", "/"), "require_approval trading/writes");
        check(&call("PUT", "a.example.com", "/"), "egress_denied trading/p");
        check(&call("GET", "b.example.com", "/"), "egress_denied trading/p");
        let hidden = CallHead::new("GET", Some("DELETE"), "a.example.com", 443, "/").unwrap();
        check(&hidden, "egress_denied trading/p");
    }

    #[test]
    fn what_is_built_in_lifts_a_default_and_nothing_else() {
        let api = CallHead::new("CONNECT", None, "kubernetes.default.svc", 443, "/").unwrap();
        let check = |policies: &[Value], expect: &str| {
            let set = compiled(&[], policies, &[]);
            let (agent, tool) = (set.for_agent(&Labels::new()), set.resolve(&api));
            let judgement = agent.judge_listed("kybernis/api-server", &api, &tool, &Facts::new());
            assert_eq!(format!("{} {}", judgement.verdict.name(), judgement.policy_id), expect);
        };
        let closed = policy(CLUSTER, "closed", &[], json!({"default": "Deny"}));
        let of =
            |verdict: Value| policy(OWN, "own", &[rule("api", json!({"hosts": ["kubernetes.default.svc"]}), None, verdict)], json!({}));
        check(&[], "allow kybernis/api-server");
        check(std::slice::from_ref(&closed), "allow kybernis/api-server");
        check(&[closed.clone(), of(json!("Deny"))], "deny trading/api");
        check(&[closed.clone(), of(approval(1))], "require_approval trading/api");
        check(&[closed, of(json!("Allow"))], "allow trading/api");
    }

    #[test]
    fn an_allow_list_does_not_answer_for_another_policy() {
        let one = policy(OWN, "one", &[rule("a", json!({"hosts": ["a.example.com"]}), None, json!("Allow"))], json!({"default": "Deny"}));
        let two = policy(OWN, "two", &[rule("b", json!({"hosts": ["b.example.com"]}), None, json!("Allow"))], json!({}));
        let set = compiled(&[], &[one, two], &[]);
        assert_eq!(verdict(&set, &call("GET", "b.example.com", "/"), &json!({})), "egress_denied trading/one");
    }

    #[test]
    fn audit_records_what_would_have_been_and_alters_nothing() {
        let deny = rule("deny", json!({}), None, json!("Deny"));
        let broken = rule("broken", json!({}), Some("request.body.absent"), json!("Deny"));
        let set = compiled(&[], &[policy(OWN, "p", &[deny, broken], json!({"mode": "Audit", "default": "Deny"}))], &[]);
        let judged = judge(&set, &call("POST", "a.example.com", "/"), &json!({}));
        assert_eq!((judged.verdict, judged.policy_id.as_str(), judged.reason), (Verdict::Allow, "", None));
        let notes: Vec<_> = judged.audit.iter().map(|note| (note.policy_id.as_str(), note.verdict.clone())).collect();
        assert_eq!(notes, [("trading/deny", Verdict::Deny(Denial::Rule)), ("trading/broken", Verdict::Deny(Denial::Error))]);
        let audits = |modes: &[&str]| {
            let policies: Vec<_> =
                modes.iter().zip('a'..).map(|(mode, n)| policy(OWN, &n.to_string(), &[], json!({"mode": mode}))).collect();
            compiled(&[], &policies, &[]).for_agent(&Labels::new()).settings().audit
        };
        assert_eq!((audits(&["Audit", "Audit"]), audits(&["Audit", "Enforce"]), audits(&[])), (true, false, false));
    }

    #[test]
    fn a_policy_speaks_only_to_the_agents_that_it_selects() {
        let deny = rule("deny", json!({}), None, json!("Deny"));
        let selector = json!({"selector": {"equal": {"app": "trader"}, "requirements": []}});
        let set = compiled(&[], &[policy(OWN, "p", &[deny], selector)], &[]);
        let call = call("POST", "a.example.com", "/");
        let tool = set.resolve(&call);
        let trader = set.for_agent(&Labels::from([("app".into(), "trader".into())]));
        let other = set.for_agent(&Labels::new());
        assert_eq!((trader.selected(), other.selected()), (1, 0));
        assert_eq!(trader.judge(&call, &tool, &Facts::new()).verdict, Verdict::Deny(Denial::Rule));
        assert_eq!(other.judge(&call, &tool, &Facts::new()).verdict, Verdict::Allow);
    }

    #[test]
    fn a_body_is_wanted_only_where_something_reads_it() {
        let by_path = rule("path", json!({"hosts": ["a.example.com"]}), Some("request.path == '/x'"), json!("Deny"));
        let by_body = rule("body", json!({"hosts": ["b.example.com"]}), Some("has(request.body.x)"), json!("Deny"));
        let keyed = tool(OWN, "keyed", json!([{"hosts": ["c.example.com"]}]), json!({"key": "request.body.id"}), Value::Null);
        let set = compiled(&[keyed], &[policy(OWN, "p", &[by_path, by_body], json!({}))], &[]);
        let check = |host: &str, facts: bool, body: bool| {
            let call = call("POST", host, "/");
            assert_eq!(set.for_agent(&Labels::new()).wants(&call, &set.resolve(&call)), Wants { facts, body }, "{host}");
        };
        check("a.example.com", true, false);
        check("b.example.com", true, true);
        check("c.example.com", true, true);
        check("d.example.com", false, false);
    }

    #[test]
    fn names_that_mean_nothing_are_refused() {
        let errors = refused(&[], &[policy(OWN, "p", &[rule("r", json!({"tools": ["x"]}), None, json!("Deny"))], json!({}))]);
        assert_eq!(
            errors,
            [
                "Policy trading/p: spec.rules[0].match.tools[0]: no ToolRegistration is named \"x\". Name one of those in reach (none), or add it"
            ]
        );
        let when = rule("r", json!({}), Some("cost.micros > 5"), json!("Deny"));
        let errors = refused(&[], &[policy(OWN, "p", &[when], json!({}))]);
        assert_eq!(errors, ["Policy trading/p: spec.rules[0].when: cost is not yet supported. Remove it until it is"]);
    }
}

mod tools {
    use super::*;
    use crate::cel::ResponseFacts;

    fn resolve(effect: Value) -> EffectiveTool {
        let one = tool(OWN, "orders", json!([{"hosts": ["a.example.com"]}]), effect, Value::Null);
        compiled(&[one], &[], &[]).resolve(&call("POST", "a.example.com", "/"))
    }

    fn answer(status: u16, body: &Value) -> Facts {
        let body = Json::parse(body.to_string().as_bytes()).unwrap();
        facts(&json!({})).with_response(&ResponseFacts { status, headers: &[], body: Some(&body) })
    }

    #[test]
    fn a_tools_own_key_may_be_a_batch_and_an_error_is_never_no_key() {
        let one = resolve(json!({"key": "'order:' + request.body.id"}));
        assert_eq!(one.effect_keys(&facts(&json!({"id": "7"}))).unwrap().unwrap(), ["order:7"]);
        let error = one.effect_keys(&facts(&json!({"id": null}))).unwrap_err();
        assert_eq!((error.tool.as_str(), error.field), ("orders", "effect.key"));
        let batch = resolve(json!({"key": "request.body.items.map(i, i.id)"}));
        assert_eq!(batch.effect_keys(&facts(&json!({"items": [{"id": "a"}, {"id": "b"}]}))).unwrap().unwrap(), ["a", "b"]);
        assert_eq!(resolve(json!({})).effect_keys(&facts(&json!({}))), Ok(None));
    }

    #[test]
    fn an_outcome_is_one_of_five_words_or_an_error() {
        let tool =
            resolve(json!({"outcome": "response.status == 200 && response.body.rejected == true ? 'Rejected' : response.body.word"}));
        let check =
            |status, body: Value, expect: Option<OutcomeWord>| assert_eq!(tool.outcome(&answer(status, &body)).ok(), expect, "{body}");
        check(200, json!({"rejected": true}), Some(OutcomeWord::Rejected));
        check(200, json!({"rejected": false, "word": "Default"}), Some(OutcomeWord::Default));
        check(500, json!({"word": "InDoubt"}), Some(OutcomeWord::InDoubt));
        check(500, json!({"word": "Maybe"}), None);
        check(200, json!({"rejected": false}), None);
        assert_eq!(resolve(json!({})).outcome(&Facts::new()), Ok(OutcomeWord::Default));
    }

    #[test]
    fn a_probe_is_rendered_from_the_call_and_read_later() {
        let tool = resolve(json!({"probe": {
            "url": "'https://a.example.com/v1/orders?id=' + request.body.id", "method": "GET", "headers": {"accept": "application/json"},
            "secret_ref": {"namespace": "trading", "name": "s", "key": "k"},
            "executed_when": "response.status == 200 && size(response.body.orders) > 0",
            "not_executed_when": "response.status == 200 && size(response.body.orders) == 0",
            "initial_delay": 2000, "interval": 10_000, "settle_horizon": 30_000, "give_up_after": 600_000}}));
        let probe = tool.probe().unwrap();
        let rendered = probe.render(&facts(&json!({"id": "a b"}))).unwrap();
        assert_eq!(rendered.url, "https://a.example.com/v1/orders?id=a%20b");
        assert_eq!(rendered.headers, [("accept".to_owned(), "application/json".to_owned())]);
        let kept: RenderedProbe = serde_json::from_str(&serde_json::to_string(&rendered).unwrap()).unwrap();
        let check = |status, body: Value, expect| assert_eq!(kept.read(&answer(status, &body)), expect, "{status} {body}");
        check(200, json!({"orders": [1]}), ProbeWord::Executed);
        check(200, json!({"orders": []}), ProbeWord::NotExecuted);
        check(500, json!({"orders": []}), ProbeWord::Unsure);
        check(200, json!({}), ProbeWord::Unsure);
        assert!(probe.render(&facts(&json!({}))).is_err());
    }

    #[test]
    fn a_schema_of_either_level_must_fit() {
        let schema = |required: &str| json!({"type": "object", "required": [required]});
        let hosts = json!([{"hosts": ["a.example.com"]}]);
        let mut tools = [tool(CLUSTER, "t", hosts.clone(), json!({}), Value::Null), tool(OWN, "t", hosts, json!({}), Value::Null)];
        tools[0]["request_schema"] = schema("x");
        tools[1]["request_schema"] = schema("y");
        let tool = compiled(&tools, &[], &[]).resolve(&call("POST", "a.example.com", "/"));
        let fits = |body: Value| tool.check_body(Some(&Json::parse(body.to_string().as_bytes()).unwrap())).is_ok();
        assert_eq!([fits(json!({"x": 1, "y": 1})), fits(json!({"x": 1})), fits(json!({"y": 1}))], [true, false, false]);
    }
}

mod retries {
    use super::*;

    #[test]
    fn the_most_specific_match_wins_and_a_tie_takes_the_fewest_attempts() {
        let orders = tool(OWN, "orders", json!([{"hosts": ["a.example.com"], "methods": ["POST"]}]), json!({}), Value::Null);
        let set = compiled(
            &[orders],
            &[],
            &[
                retry(OWN, "all", json!({}), 2, &[503]),
                retry(OWN, "wide", json!({"hosts": ["*.example.com"]}), 3, &[503]),
                retry(OWN, "host", json!({"hosts": ["a.example.com"]}), 9, &[503]),
                retry(OWN, "twin", json!({"hosts": ["a.example.com"]}), 4, &[503]),
                retry(OWN, "tool", json!({"tools": ["orders"]}), 5, &[503]),
            ],
        );
        let check = |method: &str, host: &str, expect: u32| {
            let call = call(method, host, "/");
            let terms = set.for_agent(&Labels::new()).retry(&call, &set.resolve(&call)).unwrap();
            assert_eq!(terms.attempts, expect, "{method} {host}");
        };
        check("GET", "other.net", 2);
        check("GET", "b.example.com", 3);
        check("GET", "a.example.com", 4);
        check("POST", "a.example.com", 5);
    }

    #[test]
    fn between_the_levels_whatever_tries_less_holds() {
        let set = compiled(&[], &[], &[retry(CLUSTER, "c", json!({}), 3, &[502, 503]), retry(OWN, "o", json!({}), 7, &[503, 504])]);
        let call = call("GET", "a.example.com", "/");
        let terms = set.for_agent(&Labels::new()).retry(&call, &set.resolve(&call)).unwrap();
        assert_eq!((terms.attempts, terms.statuses.as_slice()), (3, [503].as_slice()));
        let none = compiled(&[], &[], &[]);
        assert_eq!(none.for_agent(&Labels::new()).retry(&call, &none.resolve(&call)), None);
    }
}

mod digests {
    use super::*;

    #[test]
    fn a_set_is_named_by_what_it_says_not_by_its_order() {
        let (a, b) = (policy(OWN, "a", &[], json!({})), policy(OWN, "b", &[], json!({})));
        let one = set(&[], &[a.clone(), b.clone()], &[]);
        assert_eq!(one.digest(), set(&[], &[b, a.clone()], &[]).digest());
        assert_ne!(one.digest(), set(&[], &[a], &[]).digest());
        let again: PolicySet = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
        assert_eq!((again.digest(), CompiledSet::compile(one.clone()).unwrap().digest()), (one.digest(), one.digest()));
    }

    #[test]
    fn the_empty_sets_digest_never_changes() {
        assert_eq!(PolicySet::default().digest().to_string(), "sha256:1d73be62542ec4ea96ec36fe895372dd23effe3dfcc7856afd0a8eb13ef9fca0");
    }
}
