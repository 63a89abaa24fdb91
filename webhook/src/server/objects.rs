//! The review of the objects that people write: the check that `kybernis check` runs on a folder and the operator on a cluster, here
//! on one object alone. What other objects it names is the operator's business, since those may come later.

use std::collections::BTreeSet;

use kybernis_crds::kinds::Budget;
use kybernis_crds::{ManifestError, Object, load_objects};
use serde_json::{Value, json};

use super::pods::named;
use super::review::{Allowed, Cause, GROUP, Reason, Refused, Request};

/// Resources and their kinds.
const KINDS: [(&str, &str); 4] =
    [("toolregistrations", "ToolRegistration"), ("policies", "Policy"), ("retrypolicies", "RetryPolicy"), ("budgets", "Budget")];
/// What errors call an object that was made up here.
const STAND_IN: &str = "a stand-in";

/// Checks.
pub(crate) fn check(request: &Request, release_namespace: &str) -> Result<Allowed, Refused> {
    let bad = |message: String| Err(Refused::new(Reason::BadRequest, message));
    let kind = KINDS.iter().find(|(resource, _)| request.resource.group == GROUP && request.resource.resource == *resource);
    let (Some((_, kind)), "") = (kind, request.sub_resource.as_deref().unwrap_or_default()) else {
        return bad(format!(
            "this endpoint judges the kinds of {GROUP}, not {}. Correct the webhook configuration's rules",
            named(request)
        ));
    };
    if !["CREATE", "UPDATE"].contains(&request.operation.as_str()) {
        let operation = &request.operation;
        return bad(format!(
            "this endpoint judges objects as they are made and changed, not {operation:.20}. Correct the webhook configuration's rules"
        ));
    }
    if !request.object.is_object() {
        return bad("the AdmissionReview's request has no object".to_owned());
    }
    let found = request.object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if found != *kind {
        return bad(format!("the object is a {found:.80?} where its resource says {kind}"));
    }
    // What an earlier release took can still be labelled, and let go by its finalizers.
    if request.operation == "UPDATE" && request.object.get("spec") == request.old_object.get("spec") {
        return Ok(Allowed::default());
    }
    let document = document(request);
    let name = request.shown_name();
    if *kind == "Budget" {
        return budget(&document).map_err(|cause| Refused::invalid(kind, name, vec![cause]));
    }
    let mut objects = stand_ins(&document);
    objects.push(Object { name: (*kind).to_owned(), value: document });
    match load_objects(&objects, release_namespace) {
        Ok(loaded) => {
            // Secrets are looked for in a folder; here they are in the cluster.
            let warnings = loaded.warnings().iter().filter(|warning| warning.file != STAND_IN && !warning.field.ends_with("secretRef"));
            Ok(Allowed { patch: None, warnings: warnings.map(|warning| format!("{}: {}", warning.field, worded(warning))).collect() })
        }
        Err(errors) => {
            // What cannot be a tool's name makes no stand-in either, and is missed in the object.
            let mut causes: Vec<Cause> = errors.iter().filter(|error| error.file != STAND_IN).map(cause).collect();
            causes.sort_by_cached_key(|cause| place(&cause.field));
            if causes.is_empty() { Ok(Allowed::default()) } else { Err(Refused::invalid(kind, name, causes)) }
        }
    }
}

/// A registration for each tool that the object names, so that none is missed: which there are is the operator's business.
fn stand_ins(document: &Value) -> Vec<Object> {
    let spec = document.get("spec");
    let rules = spec.and_then(|spec| spec.get("rules")?.as_array()).into_iter().flatten();
    let scopes = spec.into_iter().chain(rules).filter_map(|owner| owner.get("match")?.get("tools")?.as_array());
    let names: BTreeSet<&str> = scopes.flatten().filter_map(Value::as_str).collect();
    let namespace = document.get("metadata").and_then(|metadata| metadata.get("namespace"));
    let stand_in = |(at, name): (usize, &str)| {
        let value = json!({
            "apiVersion": document.get("apiVersion"),
            "kind": "ToolRegistration",
            "metadata": {"name": name, "namespace": namespace},
            // Each somewhere else: two at one place would be a conflict.
            "spec": {"match": [{"hosts": [format!("tool-{at}.invalid")]}]},
        });
        Object { name: STAND_IN.to_owned(), value }
    };
    names.into_iter().enumerate().map(stand_in).collect()
}

/// With the name and the namespace that it will have: the API server may make the name only after us.
fn document(request: &Request) -> Value {
    let mut document = request.object.clone();
    let metadata = request.object.get("metadata");
    let text = |key: &str| metadata.and_then(|metadata| metadata.get(key)).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = text("name").map(str::to_owned).or_else(|| text("generateName").map(|prefix| format!("{prefix}x")));
    document["metadata"] = json!({"name": name, "namespace": request.namespace});
    document
}

/// The API server holds a Budget against its schema; nothing compiles it yet.
fn budget(document: &Value) -> Result<Allowed, Cause> {
    let mut track = serde_path_to_error::Track::new();
    let source = serde_path_to_error::Deserializer::new(document, &mut track);
    match <Budget as serde::Deserialize>::deserialize(source) {
        Ok(_) => Ok(Allowed { patch: None, warnings: vec!["Budget is not yet enforced: its conditions say so".to_owned()] }),
        Err(error) => Err(Cause { field: track.path().to_string(), message: format!("{error}. Correct it.") }),
    }
}

fn worded(error: &ManifestError) -> String {
    format!("{}. {}.", error.rule, error.advice)
}

/// A line and a column are those in the field's expression.
fn cause(error: &ManifestError) -> Cause {
    let place = match (error.line, error.column) {
        (Some(line), Some(column)) => format!(" (line {line}, column {column})"),
        (_, _) => String::new(),
    };
    Cause { field: error.field.clone(), message: format!("{}{place}. {}.", error.rule, error.advice) }
}

/// For sorting: the ninth rule before the tenth.
fn place(field: &str) -> Vec<(u64, String)> {
    field.split(['[', ']']).map(|part| part.parse().map_or_else(|_| (0, part.to_owned()), |index| (index, String::new()))).collect()
}
