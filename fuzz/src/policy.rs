//! A PolicySet as a sidecar gets it from the ledger, request schemas, and probes that are kept to be asked later.

use std::sync::Arc;

use kybernis_core::json::Json;
use kybernis_core::policy::{CallHead, CompiledSet, HostPattern, Labels, Level, Origin, PolicySet, RenderedProbe, Tool, ToolMatch};

use crate::cel::facts;
use crate::input::{choice, some_texts};

/// `s` set, method, host, path and body of a call; `b` schema and body; `p` probe and the body of its answer.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    let [first, second, third, fourth, fifth] = some_texts(rest);
    match kind {
        b's' => set(first, second, (third, fourth), fifth),
        b'b' => schema(first, second),
        b'p' => probe(first, second),
        _ => {}
    }
}

fn set(json: &str, method: &str, (host, path): (&str, &str), body: &str) {
    let Ok(set) = serde_json::from_str::<PolicySet>(json) else { return };
    let written = serde_json::to_vec(&set).expect("a set is text and numbers");
    let again: PolicySet = serde_json::from_slice(&written).expect("a set is read as it is written");
    assert_eq!(again.digest(), set.digest(), "a set has another digest once it has been written");
    match CompiledSet::compile(set) {
        Ok(compiled) => judge(compiled, method, (host, path), body),
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| !error.problem.is_empty())),
    }
}

fn judge(compiled: CompiledSet, method: &str, (host, path): (&str, &str), body: &str) {
    let agent = Arc::new(compiled).for_agent(&Labels::default());
    let Ok(call) = CallHead::new(method, None, host, 443, path) else { return };
    let tool = agent.set().resolve(&call);
    let facts = facts("", body, "");
    let judgement = agent.judge(&call, &tool, &facts);
    assert_eq!(agent.judge(&call, &tool, &facts), judgement, "the same call is judged twice in two ways");
    let _ = (tool.effect_keys(&facts), tool.principal(&facts), tool.outcome(&facts), agent.retry(&call, &tool));
    let _ = tool.check_body(Json::parse(body.as_bytes()).ok().as_ref());
    if let Some(Ok(rendered)) = tool.probe().map(|probe| probe.render(&facts)) {
        assert!(rendered.url.bytes().all(|byte| byte.is_ascii_graphic()), "a body's text breaks the request line: {}", rendered.url);
    }
}

fn schema(schema: &str, body: &str) {
    let Ok(schema) = serde_json::from_str(schema) else { return };
    let host = HostPattern::new("a.example").expect("it is a host");
    let tool = Tool {
        origin: Origin { level: Level::Namespace, namespace: "default".to_owned(), name: "tool".to_owned() },
        display_name: None,
        matches: vec![ToolMatch { hosts: vec![host], methods: Vec::new(), paths: Vec::new() }],
        class: None,
        effect: Default::default(),
        request_schema: Some(schema),
    };
    let Ok(compiled) = CompiledSet::compile(PolicySet { tools: vec![tool], ..PolicySet::default() }) else { return };
    let call = CallHead::new("POST", None, "a.example", 443, "/").expect("it is a call");
    let tool = compiled.resolve(&call);
    assert!(tool.has_schema());
    let _ = tool.check_body(Json::parse(body.as_bytes()).ok().as_ref());
}

fn probe(json: &str, answer: &str) {
    let Ok(probe) = serde_json::from_str::<RenderedProbe>(json) else { return };
    let written = serde_json::to_vec(&probe).expect("a probe is text");
    assert_eq!(serde_json::from_slice::<RenderedProbe>(&written).ok().as_ref(), Some(&probe));
    let facts = facts("", "", answer);
    assert_eq!(probe.read(&facts), probe.read(&facts));
}
