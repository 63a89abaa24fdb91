//! `requestSchema`: a registration's JSON Schema over request bodies, compiled once, offline, with linear-time patterns.

use jsonschema::{PatternOptions, Validator};
use serde_json::{Number, Value};

use crate::json::Json;

/// Largest schema in bytes of JSON; it is compiled by every sidecar.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Largest compiled pattern in bytes.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// A body that does not fit its tool's schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body does not fit the tool's requestSchema at {}: {problem}", if pointer.is_empty() { "its root" } else { pointer })]
pub struct SchemaMismatch {
    /// JSON pointer (RFC 6901) to the value that fails; empty for the whole body.
    pub pointer: String,
    /// What the schema says, without the value.
    pub problem: String,
}

/// A compiled schema.
#[derive(Debug)]
pub(super) struct BodySchema(Validator);

impl BodySchema {
    /// Compiles a schema; remote references are errors.
    pub(super) fn compile(schema: &Value) -> Result<Self, String> {
        let bytes = schema.to_string().len();
        if bytes > SCHEMA_BYTES_MAX {
            return Err(format!("the schema has {bytes} bytes; at most {SCHEMA_BYTES_MAX} are allowed. Shorten it"));
        }
        jsonschema::options()
            .offline()
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX))
            .build(schema)
            .map(Self)
            .map_err(|error| format!("is no usable JSON Schema: {error}. Correct it; references to other documents are not followed"))
    }

    pub(super) fn check(&self, body: Option<&Json>) -> Result<(), SchemaMismatch> {
        let Some(body) = body else {
            return Err(SchemaMismatch { pointer: String::new(), problem: "the body is not JSON".to_owned() });
        };
        self.0.validate(&plain(body)).map_err(|error| SchemaMismatch {
            pointer: error.instance_path().as_str().to_owned(),
            // The caller knows its value; logs must not.
            problem: error.masked().to_string(),
        })
    }
}

/// The body as the validator takes it; a number that no double holds stands as the nearest one.
fn plain(body: &Json) -> Value {
    match body {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => {
            let double = || number.canonical().parse().ok().and_then(Number::from_f64);
            number.as_i64().map(Number::from).or_else(double).map_or(Value::Null, Value::Number)
        }
        Json::String(text) => Value::String(text.clone()),
        Json::Array(items) => items.iter().map(plain).collect(),
        Json::Object(members) => Value::Object(members.iter().map(|(name, value)| (name.clone(), plain(value))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_that_does_not_fit_is_told_where() {
        let schema = json!({
            "type": "object",
            "required": ["qty"],
            "properties": {"qty": {"type": "integer", "minimum": 1}, "lines": {"items": {"type": "string"}}},
        });
        let schema = BodySchema::compile(&schema).unwrap();
        let check = |body: Option<Value>, expect: Option<(&str, &str)>| {
            let body = body.map(|body| Json::parse(body.to_string().as_bytes()).unwrap());
            let found = schema.check(body.as_ref()).err().map(|error| (error.pointer, error.problem));
            assert_eq!(found, expect.map(|(pointer, problem)| (pointer.to_owned(), problem.to_owned())), "{body:?}");
        };
        check(Some(json!({"qty": 1})), None);
        check(Some(json!({"qty": 0})), Some(("/qty", "value is less than the minimum of 1")));
        check(Some(json!({"qty": 1, "lines": ["a", 7]})), Some(("/lines/1", "value is not of type \"string\"")));
        check(Some(json!({})), Some(("", "\"qty\" is a required property")));
        check(None, Some(("", "the body is not JSON")));
    }

    #[test]
    fn a_schema_stays_in_the_house() {
        let check = |schema: Value| BodySchema::compile(&schema).err();
        assert!(check(json!({"$ref": "https://example.com/schema.json"})).is_some());
        assert!(check(json!({"type": 7})).is_some());
        // Look-around and back references need a backtracking engine.
        assert!(check(json!({"pattern": "(a+)+\\1"})).is_some());
        assert!(check(json!({"const": "x".repeat(SCHEMA_BYTES_MAX)})).is_some());
    }

    #[test]
    fn a_schema_that_only_refers_to_itself_asks_nothing() {
        for schema in [json!({"$ref": "#"}), json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})] {
            let schema = BodySchema::compile(&schema).unwrap();
            assert_eq!(schema.check(Some(&Json::Object(vec![]))), Ok(()));
        }
    }
}
