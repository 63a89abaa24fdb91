//! Objects as the API server has them are held to the folder's rules.

use kybernis_crds::{Fault, Object, load_objects, lower_namespace};
use serde_json::{Value, json};

fn object(name: &str, namespace: &str, kind: &str, spec: Value) -> Object {
    let value = json!({
        "apiVersion": "kybernis.io/v1alpha1",
        "kind": kind,
        "metadata": {
            "name": name, "namespace": namespace, "uid": "1", "generation": 3, "resourceVersion": "7",
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "spec": spec,
        "status": {"conditions": []},
    });
    Object { name: format!("{kind} {namespace}/{name}"), value }
}

fn tool(name: &str, namespace: &str) -> Object {
    object(name, namespace, "ToolRegistration", json!({"match": [{"hosts": ["broker.example.com"]}], "class": "SideEffect"}))
}

fn rule(when: &str) -> Value {
    json!({"rules": [{"name": "large", "when": when, "verdict": "Deny"}]})
}

#[test]
fn status_and_what_the_server_adds_are_no_fault_and_the_release_binds_everybody() {
    let objects = [tool("orders", "trading"), object("all", "my-release", "Policy", rule("request.method == \"PUT\""))];
    let loaded = load_objects(&objects, "my-release").unwrap();
    for (namespace, tools) in [("trading", 1), ("other", 0)] {
        let set = lower_namespace(&loaded, namespace);
        assert_eq!((set.tools.len(), set.policies.len()), (tools, 1), "{namespace}");
    }
    let loaded = load_objects(&objects, "kybernis-system").unwrap();
    assert_eq!(lower_namespace(&loaded, "trading").policies.len(), 0, "the release is elsewhere");
}

#[test]
fn errors_name_the_object_and_the_place_in_an_expression_and_say_which_fault_it_is() {
    let told = |objects: &[Object]| -> Vec<(String, Fault)> {
        let errors = load_objects(objects, "kybernis-system").unwrap_err();
        errors.iter().map(|error| (error.to_string(), error.fault())).collect()
    };
    let conflict = |mine: &str, other: &str| {
        let text = format!(
            "ToolRegistration trading/{mine}: spec.match[0]: conflicts with ToolRegistration trading/{other}: for broker.example.com both match equally specific. Narrow one of them by method or path."
        );
        (text, Fault::Conflict)
    };
    assert_eq!(told(&[tool("a", "trading"), tool("b", "trading")]), [conflict("a", "b"), conflict("b", "a")]);
    let later = told(&[object("p", "trading", "Policy", json!({"loops": {"identicalCalls": 5}}))]);
    assert_eq!(later, [("Policy trading/p: spec.loops: is not yet supported. Remove it until it is.".to_owned(), Fault::NotYetSupported)]);
    let wrong = told(&[object("p", "trading", "Policy", rule("request.method ==\n  nonsense.x"))]);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].0.starts_with("Policy trading/p:2:3: spec.rules[0].when: "), "{wrong:?}");
    let many = told(&[object("p", "trading", "Policy", json!({"mode": "Sometimes"}))]);
    assert!(many[0].0.starts_with("Policy trading/p: spec.mode: \"Sometimes\" is none of "), "{many:?}");
}

#[test]
fn an_object_without_bounds_is_refused() {
    let deep = (0..70).fold(json!(1), |inner, _| json!([inner]));
    let wide: Vec<u8> = vec![0; 100_001];
    for (schema, words) in [(deep, "levels deep"), (json!(wide), "values")] {
        let spec = json!({"match": [{"hosts": ["a.example.com"]}], "requestSchema": {"enum": schema}});
        let errors = load_objects(&[object("t", "trading", "ToolRegistration", spec)], "kybernis-system").unwrap_err();
        assert!(errors[0].rule.contains(words), "{errors:?}");
    }
}
