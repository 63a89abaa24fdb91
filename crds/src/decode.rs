//! From a document to one of our kinds, strictly: a field that nobody would read is refused with its path, and one whose
//! behaviour comes later says so instead of being ignored.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{CustomResourceExt, Resource};
use kybernis_core::ids::is_dns_label;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::ManifestError;
use crate::kinds::{GROUP, Policy, RetryPolicy, ToolRegistration, VERSION};
use crate::later::{LATER_FIELDS, NOT_YET};
use crate::path;
use crate::yaml::{Content, Node, Step};

/// Values that the next releases will take.
const NOT_YET_VALUES: [(&str, &str, &[&str]); 1] = [("Policy", "spec.rules[].verdict", &["Delay", "Downgrade"])];
/// Kinds that the next releases will read.
const NOT_YET_KINDS: [&str; 1] = ["Budget"];
/// Kinds that are ours but not written by hand, and what to do instead.
const NOT_BY_HAND: [(&str, &str); 2] = [
    ("Gate", "is made by Kybernis, never by hand. Remove it"),
    ("GateDecision", "is not read from a folder. Decide with kybernis approve, deny or resolve"),
];

/// A document that is one of the kinds that a folder may hold.
pub(crate) enum Object {
    Tool(Box<ToolRegistration>),
    Policy(Box<Policy>),
    RetryPolicy(Box<RetryPolicy>),
    Secret(Box<SecretManifest>),
}

/// A Secret (core/v1), which on a laptop is a manifest like the others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretManifest {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(crate) metadata: ObjectMeta,
    #[serde(rename = "type")]
    _type: Option<String>,
    #[serde(rename = "immutable")]
    _immutable: Option<bool>,
    #[serde(default)]
    pub(crate) data: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) string_data: BTreeMap<String, String>,
}

/// Reads one document, or adds what is wrong with it to `errors`.
pub(crate) fn decode(file: &str, node: &Node, errors: &mut Vec<ManifestError>) -> Option<Object> {
    let mut document = Document { file, node, errors };
    let (version, kind) = document.type_meta()?;
    let before = document.errors.len();
    let object = match (version.as_str(), kind.as_str()) {
        ("v1", "Secret") => document.typed(&kind, None).map(|secret| Object::Secret(Box::new(secret))),
        (version, kind) if version == format!("{GROUP}/{VERSION}") => match kind {
            "ToolRegistration" => document.typed(kind, Some(&TOOL_SCHEMA)).map(|tool| Object::Tool(Box::new(tool))),
            "Policy" => document.typed(kind, Some(&POLICY_SCHEMA)).map(|policy| Object::Policy(Box::new(policy))),
            "RetryPolicy" => document.typed(kind, Some(&RETRY_SCHEMA)).map(|retry| Object::RetryPolicy(Box::new(retry))),
            other => {
                document.foreign_kind(other);
                None
            }
        },
        (version, _) => {
            let problem =
                format!("{version:?} is none of {GROUP}/{VERSION} and, for a Secret, v1. Correct it, or move the object to another folder");
            document.error(&[member("apiVersion")], &problem);
            None
        }
    };
    object.filter(|_| document.errors.len() == before)
}

struct Document<'a> {
    file: &'a str,
    node: &'a Node,
    errors: &'a mut Vec<ManifestError>,
}

impl Document<'_> {
    fn error(&mut self, path: &[Step], problem: &str) {
        let at = self.node.place(path);
        self.errors.push(ManifestError::new(self.file, Some(at), &path::to_text(path), problem));
    }

    fn type_meta(&mut self) -> Option<(String, String)> {
        if !matches!(self.node.content, Content::Map(_)) {
            self.error(&[], "the document is no object. Begin it with apiVersion and kind");
            return None;
        }
        let version = self.text("apiVersion", "is missing. Begin the document with apiVersion: kybernis.io/v1alpha1");
        let kind = self.text("kind", "is missing. Say what the object is, as in kind: Policy");
        version.zip(kind)
    }

    fn text(&mut self, name: &str, missing: &str) -> Option<String> {
        match self.node.member(name).map(|member| &member.value.content) {
            Some(Content::Scalar(Value::String(text), _)) => Some(text.clone()),
            Some(Content::Scalar(Value::Null, _)) | None => {
                self.error(&[member(name)], missing);
                None
            }
            Some(Content::Scalar(..) | Content::List(_) | Content::Map(_)) => {
                self.error(&[member(name)], "is no text. Write a text");
                None
            }
        }
    }

    fn foreign_kind(&mut self, kind: &str) {
        let by_hand = NOT_BY_HAND.iter().find(|(known, _)| *known == kind);
        let problem = match by_hand {
            Some((_, problem)) => format!("{kind} {problem}"),
            None if NOT_YET_KINDS.contains(&kind) => format!("{kind} is not yet supported. Remove the object until it is"),
            None => format!("{kind:?} is no kind of {GROUP}. Use ToolRegistration, Policy or RetryPolicy"),
        };
        self.error(&[member("kind")], &problem);
    }

    /// Reads the document as `T`: first what comes later, then its fields, then the schema's own rules.
    fn typed<T: DeserializeOwned>(&mut self, kind: &str, schema: Option<&LazyLock<Validator>>) -> Option<T> {
        self.metadata();
        let later = self.not_yet(kind);
        let value = without_nulls(self.node.to_json());
        let (mut ignored, mut track) = (Vec::new(), serde_path_to_error::Track::new());
        let source = serde_path_to_error::Deserializer::new(value.clone(), &mut track);
        let decoded = serde_ignored::deserialize::<_, _, T>(source, |found| ignored.push(path::from_ignored(&found)));
        let known = [vec![member("apiVersion")], vec![member("kind")], vec![member("status")]];
        for unknown in ignored.iter().filter(|unknown| !later.contains(unknown) && !known.contains(unknown)) {
            self.error(unknown, &format!("{kind} has no such field. Correct its name or remove it"));
        }
        match decoded {
            Ok(decoded) => {
                if let Some(schema) = schema {
                    self.schema_errors(schema, &value);
                }
                Some(decoded)
            }
            Err(error) => {
                let mut at = path::from_tracked(&track.path());
                let problem = type_problem(&error.to_string(), &mut at);
                if !later.contains(&at) {
                    self.error(&at, &problem);
                }
                None
            }
        }
    }

    fn schema_errors(&mut self, schema: &Validator, value: &Value) {
        let found: Vec<_> =
            schema.iter_errors(value).map(|error| (path::from_pointer(error.instance_path().as_str()), schema_problem(&error))).collect();
        for (at, problem) in found {
            self.error(&at, &problem);
        }
    }

    fn metadata(&mut self) {
        if self.node.member("status").is_some() {
            self.error(&[member("status")], "is written by Kybernis. Remove it");
        }
        let name_at = [member("metadata"), member("name")];
        match self.node.find(&name_at).map(|name| &name.content) {
            Some(Content::Scalar(Value::String(name), _)) if is_dns_label(name) => {}
            Some(_) => self.error(&name_at, "is no name. Use up to 63 lower-case letters, digits and hyphens, none of them at an end"),
            None => self.error(&name_at, "is missing. Give the object a name"),
        }
        let namespace_at = [member("metadata"), member("namespace")];
        match self.node.find(&namespace_at).map(|namespace| &namespace.content) {
            Some(Content::Scalar(Value::String(namespace), _)) if is_dns_label(namespace) => {}
            None | Some(Content::Scalar(Value::Null, _)) => {}
            Some(_) => {
                self.error(&namespace_at, "is no namespace. Use up to 63 lower-case letters, digits and hyphens, none of them at an end")
            }
        }
    }

    /// Refuses what the next releases will read, and says where it stood.
    fn not_yet(&mut self, kind: &str) -> Vec<Vec<Step>> {
        let mut found = Vec::new();
        for later in LATER_FIELDS.iter().filter(|later| later.kind == kind) {
            found.extend(matching(self.node, later.path).into_iter().map(|path| (path, format!("{NOT_YET}. Remove it until it is"))));
        }
        for (_, pattern, values) in NOT_YET_VALUES.iter().filter(|(of, ..)| *of == kind) {
            for path in matching(self.node, pattern) {
                let Some(Content::Scalar(Value::String(text), _)) = self.node.find(&path).map(|node| &node.content) else {
                    continue;
                };
                if values.contains(&text.as_str()) {
                    let problem = format!("{text} is not yet supported. Use Allow, Deny or RequireApproval until it is");
                    found.push((path, problem));
                }
            }
        }
        for (path, problem) in &found {
            self.error(path, problem);
        }
        found.into_iter().map(|(path, _)| path).collect()
    }
}

/// The paths in the document that a pattern with `[]` means.
fn matching(node: &Node, pattern: &str) -> Vec<Vec<Step>> {
    let mut paths = vec![Vec::new()];
    for part in pattern.split('.') {
        let (name, each) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        let mut next = Vec::new();
        for mut path in paths {
            path.push(member(name));
            match node.find(&path).map(|found| &found.content) {
                None => {}
                Some(Content::List(items)) if each => next.extend((0..items.len()).map(|index| {
                    let mut path = path.clone();
                    path.push(Step::Item(index));
                    path
                })),
                Some(_) => next.push(path),
            }
        }
        paths = next;
    }
    paths
}

/// Words what the schema found; the kinds that our schemas use have words of their own.
fn schema_problem(error: &ValidationError<'_>) -> String {
    let whole = |limit: &Value| limit.as_f64().map_or_else(|| limit.to_string(), |limit| format!("{limit}"));
    match error.kind() {
        ValidationErrorKind::Minimum { limit } => format!("is {}, less than {}. Raise it", error.instance(), whole(limit)),
        ValidationErrorKind::Maximum { limit } => format!("is {}, more than {}. Lower it", error.instance(), whole(limit)),
        ValidationErrorKind::MinItems { limit } => format!("has fewer entries than {limit}. Add one"),
        ValidationErrorKind::MaxItems { limit } => format!("has more entries than {limit}. Split it"),
        ValidationErrorKind::MinLength { limit } => format!("has fewer characters than {limit}. Fill it in"),
        ValidationErrorKind::MaxLength { limit } => format!("has more characters than {limit}. Shorten it"),
        ValidationErrorKind::Pattern { pattern } => format!("is {}, which does not match {pattern}. Correct it", error.instance()),
        _ => format!("{}. Correct it", error.masked()),
    }
}

/// Words for serde's names of what it expected.
fn wanted_words(wanted: &str) -> &str {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "a boolean" => "true or false",
        "a string" => "a text",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

/// Rewords serde's type errors; a missing field's own name is added to the path.
fn type_problem(text: &str, at: &mut Vec<Step>) -> String {
    let quoted = |text: &str| text.split('`').nth(1).map(str::to_owned);
    if text.starts_with("missing field")
        && let Some(name) = quoted(text)
    {
        at.push(member(&name));
        return "is missing. Add it".to_owned();
    }
    if text.starts_with("unknown variant") {
        let mut words = text.split('`').skip(1).step_by(2);
        if let Some(found) = words.next() {
            let known: Vec<_> = words.collect();
            return format!("{found:?} is none of {}. Use one of them", known.join(", "));
        }
    }
    if let Some((found, wanted)) = text.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        return format!("is {found} where {} belongs. Correct it", wanted_words(wanted));
    }
    if let Some((found, wanted)) = text.strip_prefix("invalid value: ").and_then(|rest| rest.split_once(", expected ")) {
        return format!("is {found} where {} belongs. Correct it", wanted_words(wanted));
    }
    text.to_owned()
}

/// An empty `field:` says nothing, as it does for the API server.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().filter(|(_, value)| !value.is_null());
            // In a JSON Schema a null is a word: `const: null`.
            let inner = |name: String, value| if name == "requestSchema" { (name, value) } else { (name, without_nulls(value)) };
            Value::Object(kept.map(|(name, value)| inner(name, value)).collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn member(name: &str) -> Step {
    Step::Member(name.to_owned())
}

static TOOL_SCHEMA: LazyLock<Validator> = LazyLock::new(schema_of::<ToolRegistration>);
static POLICY_SCHEMA: LazyLock<Validator> = LazyLock::new(schema_of::<Policy>);
static RETRY_SCHEMA: LazyLock<Validator> = LazyLock::new(schema_of::<RetryPolicy>);

/// The schema that the API server would hold the document against.
#[allow(clippy::expect_used, reason = "the schemas are generated from our own types, and a test compiles each")]
fn schema_of<K: CustomResourceExt + Resource>() -> Validator {
    let crd = K::crd();
    let schema = crd.spec.versions.first().and_then(|version| version.schema.as_ref());
    let schema = serde_json::to_value(schema.and_then(|schema| schema.open_api_v3_schema.as_ref())).expect("a schema is JSON");
    jsonschema::options().offline().build(&schema).expect("a generated schema compiles")
}
