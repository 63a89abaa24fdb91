//! Bad input, as kubectl shows it: refused where people write it, with the field and what to do. Nothing of it is stored, and nobody falls
//! over it.

use std::iter;

use anyhow::{Context as _, Result, bail, ensure};
use kybernis_pods::{Space, Workload, World, said};
use serde_json::{Value, json};

use crate::scenario::{Told, installed};

/// Annotations that do not parse.
const ANNOTATIONS: [(&str, &str, &str); 9] = [
    ("inject", "maybe", r#""maybe" is neither yes nor no. Write "true" or "false""#),
    ("capture", "Sideways", r#""Sideways" is no way to capture. Write Cooperative, Redirect or Strict"#),
    ("agent", "$(SECRET)", "has characters that a name may not have"),
    ("log-level", "loud", r#""loud" is no log level. Write off, error, warn, info, debug, trace"#),
    ("skip-outbound-ports", "80,http", r#"has "http", which is no port or range"#),
    ("proxy-cpu-request", "some", r#""some" is not a quantity"#),
    ("proxy-memory-limit", "-1Gi", r#""-1Gi" is below zero"#),
    ("proxy-memory-request", "64Gi", "is above its limit"),
    ("status", "{}", "only Kybernis writes this annotation"),
];

/// One rule of a Policy, and what kubectl says of it.
const RULES: [(&str, &[&str]); 14] = [
    ("{when: 'request.body.qty >', verdict: Deny}", &["spec.rules[0].when", "this is no CEL expression"]),
    (
        "{when: 'reqest.path == \"/\"', verdict: Deny}",
        &["spec.rules[0].when", "there is no `reqest` here, did you mean `request`", "column 1"],
    ),
    ("{when: 'request.methd == \"PUT\"', verdict: Deny}", &["spec.rules[0].when", "`request` has no `methd`, did you mean `method`"]),
    ("{when: 'sized(request.path) > 1', verdict: Deny}", &["spec.rules[0].when", "there is no function `sized`, did you mean `size`"]),
    ("{when: 'Foo{}.bar', verdict: Deny}", &["spec.rules[0].when", "`Foo` is no type that policies know"]),
    ("{when: '1 + 1', verdict: Deny}", &["spec.rules[0].when", "gives a number where true or false belongs"]),
    ("{when: 'request.path > 5', verdict: Deny}", &["spec.rules[0].when", "a text is neither more nor less than a number"]),
    ("{when: '((((((((1', verdict: Deny}", &["spec.rules[0].when", "this is no CEL expression"]),
    ("{verdict: Perhaps}", &["spec.rules[0].verdict", "\"Perhaps\"", "supported values: \"Allow\", \"Deny\", \"RequireApproval\""]),
    ("{vredict: Deny}", &["unknown field \"spec.rules[0].vredict\""]),
    ("{verdict: Deny, match: {hosts: ['https://a.example.com']}}", &["spec.rules[0].match.hosts[0]", "https://a.example.com"]),
    ("{verdict: Deny, approval: {required: 2}}", &["spec.rules[0]", "approval needs verdict RequireApproval"]),
    ("{verdict: RequireApproval, approval: {expiresAfter: soon}}", &["spec.rules[0].approval.expiresAfter", "soon"]),
    ("{verdict: RequireApproval, approval: {required: 0}}", &["spec.rules[0].approval.required", "greater than or equal to 1"]),
];

/// Calls of the webhook by whoever reaches its port: method, path, body, and what is answered.
const CALLS: [(&str, &str, &str, u16, &str); 9] = [
    ("POST", "/inject", "", 400, "the body is no JSON"),
    ("POST", "/inject", "\u{0}\u{1}garbage", 400, "the body is no JSON"),
    ("POST", "/inject", "{}", 400, "the body is without apiVersion or kind"),
    ("POST", "/validate/pods", "[[[[[[[[", 400, "the body is no JSON"),
    ("POST", "/validate/objects", r#"{"apiVersion":"v1","kind":"List"}"#, 400, r#"the body is "List" of "v1""#),
    ("POST", "/stamp/decisions", r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#, 400, "has no request"),
    ("POST", "/validate/decisions", r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#, 400, "has no uid"),
    ("POST", "/", "{}", 404, "there is no such endpoint, only /inject, /validate/pods"),
    ("DELETE", "/inject", "{}", 405, "reviews are sent with POST"),
];

/// What the API server's store takes, and a little more.
const LARGE: usize = 1_600_000;
/// More than the API server reads of a request, and than the webhook reads.
const HUGE: usize = 9_000_000;

pub(crate) fn refused(world: &World) -> Result<Told> {
    installed(world)?;
    let space = world.space("input")?;
    let bad = manifests();
    for (what, manifest, told) in &bad {
        let answer = space.try_create(["--output=name"], manifest)?;
        let heard = String::from_utf8_lossy(&answer.stderr);
        // Of what is large the end says why.
        let shown = heard.chars().rev().take(800).collect::<Vec<_>>().into_iter().rev().collect::<String>();
        ensure!(!answer.status.success(), "{what} was let in");
        for words in told {
            ensure!(heard.contains(words), "of {what} kubectl says: {shown}; not {words}");
        }
    }
    let kinds = "pods,policies,toolregistrations,retrypolicies,budgets,gates,gatedecisions";
    let stored = said(&mut space.kubectl(["get", kinds, "--output=name"]))?;
    ensure!(stored.is_empty(), "stored: {stored}");

    let strangers = other_versions(&space)?;
    missing_tool(&space)?;
    let calls = called_by_anybody(world)?;
    nobody_fell(world)?;
    let done = format!("{} manifests and {strangers} injected pods that do not hold, {calls} calls of the webhook by anybody", bad.len());
    Ok(Told::new(&done, "nothing stored; 0 restarts, 0 panics"))
}

/// What each is, what is written, and what kubectl says.
fn manifests() -> Vec<(String, String, Vec<String>)> {
    let case =
        |what: &str, manifest: String, told: &[&str]| (what.to_owned(), manifest, told.iter().map(|&words| words.to_owned()).collect());
    let annotated = |annotations: Value| pod(annotations, json!([]));
    let mut cases: Vec<_> = ANNOTATIONS
        .iter()
        .map(|(name, value, told)| {
            let name = format!("kybernis.io/{name}");
            let field = format!("metadata.annotations[{name}]");
            let mut annotations = json!({"kybernis.io/inject": "true"});
            annotations[&name] = json!(value);
            case(&format!("annotation {name}"), annotated(annotations).to_string(), &[&field, told])
        })
        .collect();
    let all: Value = ANNOTATIONS
        .iter()
        .take(7)
        .map(|(name, value, _)| (format!("kybernis.io/{name}"), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    cases.push(case(
        "many annotations",
        annotated(all).to_string(),
        &["7 things are wrong:", "[kybernis.io/capture]", "[kybernis.io/agent]"],
    ));
    cases.extend(RULES.iter().map(|(rule, told)| case(&format!("the rule {rule}"), policy(rule), told)));

    let opted_in = || json!({"kybernis.io/inject": "true"});
    let long = |bytes: usize| "x".repeat(bytes);
    let env = |value: Value| pod(opted_in(), json!([value])).to_string();
    let nested = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    cases.extend([
        case(
            "a variable of ours through valueFrom",
            env(json!({"name": "HTTP_PROXY", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})),
            &["spec.containers[0].env[0]", "HTTP_PROXY"],
        ),
        case("a large variable", env(json!({"name": "A", "value": long(LARGE)})), &["too large"]),
        case("a huge variable", env(json!({"name": "A", "value": long(HUGE)})), &["too large"]),
        case(
            "a large annotation",
            annotated(json!({"kybernis.io/inject": "true", "note": long(LARGE)})).to_string(),
            &["metadata.annotations", "Too long"],
        ),
        case("a large reason", policy(&format!("{{verdict: Deny, reason: {}}}", long(LARGE))), &["spec.rules[0].reason", "Too long"]),
        case(
            "a large expression",
            policy(&format!("{{verdict: Deny, when: '{} > 1'}}", long(LARGE / 16))),
            &["spec.rules[0].when", "at most 4096 are allowed"],
        ),
        case(
            "a deep expression",
            policy(&format!("{{verdict: Deny, when: '{}1'}}", "(".repeat(3_000))),
            &["spec.rules[0].when", "nests deeper than 64 levels"],
        ),
        case(
            "too many rules",
            policy(&iter::repeat_n("{name: a, verdict: Deny}", 300).collect::<Vec<_>>().join(", ")),
            &["spec.rules", "must have at most 256 items"],
        ),
        case("a schema that is none", tool(r#"{type: 7}"#), &["spec.requestSchema", "is no usable JSON Schema"]),
        case(
            "a schema elsewhere",
            tool(r#"{$ref: "https://example.com/schema.json"}"#),
            &["spec.requestSchema", "references to other documents are not followed"],
        ),
        case("a schema without end", tool(&format!("{{const: {nested}}}")), &["depth"]),
        case(
            "an object that contains itself",
            "&a\napiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {name: a}\nspec: *a\n".to_owned(),
            &["contains itself"],
        ),
    ]);
    cases
}

/// A pod whose app has these variables.
fn pod(annotations: Value, env: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bad", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "kybernis.test/agents:e2e", "env": env}]},
    })
}

/// A Policy of one rule, or of several with commas between them.
fn policy(rule: &str) -> String {
    let rule = if rule.contains("name: ") { rule.to_owned() } else { rule.replacen('{', "{name: a, ", 1) };
    format!("apiVersion: kybernis.io/v1alpha1\nkind: Policy\nmetadata: {{name: bad}}\nspec: {{rules: [{rule}]}}\n")
}

/// A ToolRegistration whose requests have this schema.
fn tool(schema: &str) -> String {
    let spec = format!("{{match: [{{hosts: [broker.example.com]}}], requestSchema: {schema}}}");
    format!("apiVersion: kybernis.io/v1alpha1\nkind: ToolRegistration\nmetadata: {{name: bad}}\nspec: {spec}\n")
}

/// What a pod is with a change, the change, and what kubectl says.
type Change<'c> = (&'static str, &'c dyn Fn(&mut Value), [&'static str; 2]);

/// Pods whose manifest somebody has read from a cluster, Kybernis' part included; returns how many were refused.
fn other_versions(space: &Space<'_>) -> Result<usize> {
    let made = space.try_pod(&Workload::new("injected", "idle.py", &[]))?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let injected: Value = serde_json::from_str(&said(&mut space.kubectl(["get", "pod/injected", "--output=json"]))?)?;
    let status = injected["metadata"]["annotations"]["kybernis.io/status"].as_str().context("the pod is not injected")?;
    // Its name stands in its variables.
    space.pod("injected").kill()?;
    let copy = |change: &dyn Fn(&mut Value)| {
        let (annotations, labels) = (&injected["metadata"]["annotations"], &injected["metadata"]["labels"]);
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "injected", "annotations": annotations, "labels": labels}, "spec": injected["spec"]});
        pod["spec"]["nodeName"] = Value::Null;
        change(&mut pod);
        space.try_create(["--dry-run=server", "--output=name"], &pod.to_string())
    };
    let as_it_is = copy(&|_| {})?;
    ensure!(as_it_is.status.success(), "the same pod again: {}", String::from_utf8_lossy(&as_it_is.stderr));

    let mut said: Value = serde_json::from_str(status)?;
    said["version"] = json!("0.0.9");
    let proxy =
        |pod: &Value| pod["spec"]["initContainers"].as_array().into_iter().flatten().position(|found| found["name"] == "kybernis-proxy");
    let proxy = proxy(&injected).context("the pod has no sidecar")?;
    let changes: [Change<'_>; 3] = [
        (
            "a pod of another version",
            &|pod| pod["metadata"]["annotations"]["kybernis.io/status"] = json!(said.to_string()),
            ["metadata.annotations[kybernis.io/status]", "has been injected by Kybernis \"0.0.9\", and this is"],
        ),
        (
            "another version's sidecar",
            &|pod| pod["spec"]["initContainers"][proxy]["image"] = json!("kybernis.test/sidecar:e2e-0.0.9"),
            ["].image", "kybernis-proxy is not as Kybernis injects it"],
        ),
        (
            "a sidecar that nobody tells of",
            &|pod| drop(pod["metadata"]["annotations"].as_object_mut().and_then(|all| all.remove("kybernis.io/status"))),
            ["spec.initContainers", "kybernis-proxy is a name of Kybernis' own"],
        ),
    ];
    for (what, change, told) in &changes {
        let answer = copy(change)?;
        let heard = String::from_utf8_lossy(&answer.stderr);
        ensure!(!answer.status.success(), "{what} was let in");
        for words in told {
            ensure!(heard.contains(words), "of {what} kubectl says: {heard}; not {words}");
        }
    }
    Ok(changes.len())
}

/// Objects may come in any order: a policy is let in before its tool, and says that it waits for it.
fn missing_tool(space: &Space<'_>) -> Result<()> {
    space.create(&policy("{verdict: Deny, match: {tools: [orders]}}"))?;
    space.wait("policy/bad", "condition=Accepted=False")?;
    let told = space.field("policy/bad", "{.status.conditions[?(@.type=='Accepted')]['reason','message']}")?;
    for words in ["Invalid", "spec.rules[0].match.tools[0]", "no ToolRegistration is named \"orders\""] {
        ensure!(told.contains(words), "of a tool that is not there the policy says: {told}; not {words}");
    }
    space.create(&tool("{type: object}").replace("name: bad", "name: orders"))?;
    space.wait("policy/bad", "condition=Accepted")
}

/// From the node's network; returns how many calls there were.
fn called_by_anybody(world: &World) -> Result<usize> {
    let address = said(&mut world.kubectl_system(["get", "service", "kybernis-webhook", "--output=jsonpath={.spec.clusterIP}"]))?;
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "object": "x".repeat(HUGE)}})
            .to_string();
    let deep = "[".repeat(LARGE);
    let large = [
        ("POST", "/inject", review.as_str(), 413, "the body is larger than"),
        ("POST", "/inject", deep.as_str(), 400, "the body is no JSON"),
    ];
    let calls = CALLS.iter().chain(&large);
    for (method, path, body, status, told) in calls.clone() {
        let (answered, heard) = world.send(method, &format!("https://{address}{path}"), body)?;
        let sent = body.get(..body.len().min(60)).unwrap_or_default();
        ensure!(
            answered == *status && heard.contains(told),
            "{method} {path} {sent:?} was answered {answered} {heard}; not {status} {told}"
        );
    }
    ensure!(world.send("POST", &format!("http://{address}:443/inject"), "{}").is_err(), "the webhook answers without TLS");
    Ok(calls.count() + 1)
}

/// The control plane's pods are those that they were, and still at work.
fn nobody_fell(world: &World) -> Result<()> {
    for component in ["webhook", "operator"] {
        let selector = format!("--selector=app.kubernetes.io/component={component}");
        let restarts = "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let restarts = said(&mut world.kubectl_system(["get", "pods", &selector, restarts]))?;
        ensure!(!restarts.is_empty() && restarts.split(' ').all(|count| count == "0"), "{component} was started anew: {restarts}");
        let log = said(&mut world.kubectl_system(["logs", &selector, "--tail=-1", "--prefix"]))?;
        if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
            bail!("{component}: {line}");
        }
    }
    Ok(())
}
