//! What the chart can be told: `values.yaml` says it to people, `values.schema.json` to helm, and neither knows a key that the other does
//! not. And what the chart says of metrics: only what a program of ours exports.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn values() -> Value {
    serde_yaml_ng::from_str(&text("charts/kybernis/values.yaml")).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&text("charts/kybernis/values.schema.json")).unwrap()
}

/// What is said of these values, as `FIELD: RULE`.
fn refusals(values: &Value) -> Vec<String> {
    let validator = jsonschema::options().offline().build(&schema()).unwrap();
    validator.iter_errors(values).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// Follows a reference inside the schema.
fn resolved<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    let pointer = schema.get("$ref").and_then(Value::as_str).map(|reference| reference.trim_start_matches('#'));
    pointer.map_or(schema, |pointer| root.pointer(pointer).unwrap())
}

/// Compares the keys of an object with those that its schema lists. A map, whose keys are people's own, lists none.
fn compare(path: &str, object: &Map<String, Value>, schema: &Value, root: &Value, differences: &mut Vec<String>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    if schema["additionalProperties"] != false {
        differences.push(format!("{path}: the schema lets every key pass"));
    }
    for key in object.keys().filter(|key| !properties.contains_key(*key)) {
        differences.push(format!("{path}/{key}: is not in the schema"));
    }
    for (key, property) in properties.iter().filter(|(key, _)| *key != "global") {
        // Amounts are people's own choice; what else may be left out would be a null somewhere in the templates.
        let optional = schema.get("required").is_none();
        if !optional && !schema["required"].as_array().unwrap().contains(&json!(key)) {
            differences.push(format!("{path}/{key}: the schema lets a null pass"));
        }
        match object.get(key) {
            Some(Value::Object(object)) => compare(&format!("{path}/{key}"), object, resolved(property, root), root, differences),
            Some(_) => {}
            None if optional => {}
            None => differences.push(format!("{path}/{key}: is not in values.yaml")),
        }
    }
}

#[test]
fn values_and_schema_know_the_same_keys() {
    let (values, schema) = (values(), schema());
    let mut differences = Vec::new();
    compare("", values.as_object().unwrap(), &schema, &schema, &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(refusals(&values), Vec::<String>::new());
}

/// The keys of `values.yaml` with no words of theirs in the line above.
fn undocumented(yaml: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let (mut documented, mut resources) = (false, None);
    for line in yaml.lines() {
        let word = line.trim_start();
        let indent = line.len() - word.len();
        let key = word.split_once(':').map(|(key, _)| key).filter(|key| !key.is_empty() && key.chars().all(char::is_alphanumeric));
        if resources.is_some_and(|outer| indent <= outer) {
            resources = None;
        }
        match key {
            // Kubernetes documents what is below.
            Some(_) if resources.is_some() => {}
            Some(key) => {
                if !documented {
                    missing.push(line.to_owned());
                }
                resources = (key == "resources").then_some(indent);
            }
            None => {}
        }
        documented = word.starts_with("# ");
    }
    missing
}

#[test]
fn every_value_has_its_words() {
    assert_eq!(undocumented(&text("charts/kybernis/values.yaml")), Vec::<String>::new());
    assert_eq!(undocumented("# A.\na:\n  b: 1\n  # C.\n  c:\n  resources:\n    d: 1\ne: 2\n"), ["  b: 1", "  resources:", "e: 2"]);
}

#[test]
fn what_the_chart_cannot_use_is_refused_by_field_and_rule() {
    let digest = format!("sha256:{}", "0".repeat(63));
    for (pointer, value, expected) in [
        ("/webhook/replicas", json!("two"), "is not of type \"integer\""),
        ("/webhook/replicas", json!(0), "less than the minimum of 1"),
        ("/webhook/certificates/leafSeconds", json!("720h"), "is not of type \"integer\""),
        ("/webhook/certificates/graceSeconds", json!(0), "less than the minimum of 1"),
        ("/operator/replicas", json!(1.5), "is not of type \"integer\""),
        ("/operator/replicas", json!(1_u64 << 31), "greater than the maximum of 2147483647"),
        ("/operator/secrets", json!("yes"), "is not of type \"boolean\""),
        ("/crds/install", json!("false"), "is not of type \"boolean\""),
        ("/image/registry", json!("https://ghcr.io"), "does not match"),
        ("/image/tag", json!(1), "is not of type \"string\""),
        ("/image/tag", json!("a".repeat(129)), "does not match"),
        ("/image/pullPolicy", json!("always"), "is not one of \"Always\", \"IfNotPresent\" or \"Never\""),
        ("/image/kybernis/repository", json!(""), "does not match"),
        ("/image/sidecar/digest", json!(digest), "does not match"),
        ("/image/pullSecrets", json!("registry"), "is not of type \"array\""),
        ("/commonLabels", json!({"app.kubernetes.io/name": "mine"}), "is not allowed for"),
        ("/commonLabels/team", json!("a b"), "does not match"),
        ("/listenAddress", json!("127.0.0.1"), "is not one of \"::\" or \"0.0.0.0\""),
        ("/ledger/storage/size", json!(""), "does not match"),
        ("/ledger/storage/size", json!("10 GB"), "does not match"),
        ("/ledger/podAnnotations/build", json!(7), "is not of type \"string\""),
        ("/ledger/resources/limits/memory", json!("1 GiB"), "is not valid under any of the schemas"),
        ("/ledger/tolerations", json!([1]), "is not of type \"object\""),
        ("/ledger/log", json!(""), "is shorter than 1 character"),
        ("/sidecar/uid", json!(0), "less than the minimum of 1"),
        ("/sidecar/capture", json!("redirect"), "is not one of \"Cooperative\", \"Redirect\" or \"Strict\""),
        ("/sidecar/resources/requests/cpu", json!(1), "is not of type \"string\""),
        ("/sidecar/token/expirationSeconds", json!(60), "less than the minimum of 600"),
        ("/sidecar/formerImages", json!(["a,b"]), "does not match"),
        ("/monitoring/interval", json!("30"), "does not match"),
        ("/networkPolicy/apiServerPorts", json!([]), "has less than 1 item"),
        ("/networkPolicy/apiServerPorts", json!([65536]), "greater than the maximum of 65535"),
    ] {
        let mut values = values();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        values.pointer_mut(parent).unwrap()[key] = value.clone();
        let refusals = refusals(&values);
        let found = refusals.iter().any(|refusal| refusal.starts_with(pointer) && refusal.contains(expected));
        assert!(found, "{pointer} = {value}: {refusals:?} does not say {expected:?}");
    }
}

/// What helm makes of `null`: the key is gone.
#[test]
fn what_is_null_is_refused_by_name() {
    for (parent, key) in [("", "image"), ("", "ledger"), ("/webhook", "replicas"), ("/sidecar/token", "audience")] {
        let mut values = values();
        values.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
        assert_eq!(refusals(&values), [format!("{parent}: \"{key}\" is a required property")]);
    }
}

/// Every name in `text` that is a metric's.
fn metrics(text: &str) -> impl Iterator<Item = &str> {
    let word = |from: &'_ str| from.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_').unwrap_or(from.len());
    text.match_indices("kyb_").map(move |(at, _)| &text[at..at + word(&text[at..])])
}

#[test]
fn dashboard_and_rules_ask_for_metrics_that_there_are() {
    let exported =
        ["ledger/src/metrics.rs", "operator/src/metrics.rs", "webhook/src/server/metrics.rs", "sidecar/src/admin.rs"].map(text).concat();
    let mut asked = 0;
    for file in ["dashboards/kybernis.json", "templates/monitoring/rules.yaml"] {
        for name in metrics(&text(&format!("charts/kybernis/{file}"))) {
            let there = metrics(&exported).any(|found| found == name || name.strip_suffix("_bucket") == Some(found));
            assert!(there, "{file} asks for {name}, which nothing exports");
            asked += 1;
        }
    }
    assert!(asked > 30, "only {asked} metrics were found");
}
