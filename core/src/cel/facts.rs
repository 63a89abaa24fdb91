//! What expressions see of a call: built once for each call, shared by all of its expressions, copied by none.

use std::collections::HashMap;
use std::sync::Arc;

use ::cel::common::types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString};
use ::cel::common::value::{CowVal, Val};
use ::cel::context::VariableResolver;

use crate::json::Json;

type Value = Box<dyn Val>;

/// The facts of one call. Parts that are not set are not there: reading them is an error that names them.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    variables: Vec<(&'static str, Arc<dyn Val>)>,
}

/// The request as expressions see it.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'r> {
    /// Upper case.
    pub method: &'r str,
    /// `http` or `https`.
    pub scheme: &'r str,
    /// Lower case, without port.
    pub host: &'r str,
    /// The port.
    pub port: u16,
    /// Normalised.
    pub path: &'r str,
    /// Without its question mark.
    pub query: &'r str,
    /// Lower-case names; several values of one name are joined by a comma (RFC 9110, 5.3).
    pub headers: &'r [(String, String)],
    /// Present when the body is JSON and within the bound.
    pub body: Option<&'r Json>,
}

/// The answer as expressions see it.
#[derive(Clone, Copy, Debug)]
pub struct ResponseFacts<'r> {
    /// HTTP status.
    pub status: u16,
    /// Lower-case names.
    pub headers: &'r [(String, String)],
    /// Present when the body is JSON and within the bound.
    pub body: Option<&'r Json>,
}

impl Facts {
    /// No facts at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `request`.
    #[must_use]
    pub fn with_request(self, request: &RequestFacts<'_>) -> Self {
        let mut members = vec![
            ("method", text(request.method)),
            ("scheme", text(request.scheme)),
            ("host", text(request.host)),
            ("port", int(request.port)),
            ("path", text(request.path)),
            ("query", query(request.query)),
            ("headers", joined(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))),
        ];
        members.extend(request.body.map(|body| ("body", value(body))));
        self.with("request", object(members))
    }

    /// Adds `response`.
    #[must_use]
    pub fn with_response(self, response: &ResponseFacts<'_>) -> Self {
        let mut members = vec![
            ("status", int(response.status)),
            ("headers", joined(response.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))),
        ];
        members.extend(response.body.map(|body| ("body", value(body))));
        self.with("response", object(members))
    }

    /// Adds `agent`.
    #[must_use]
    pub fn with_agent<'l>(self, name: &str, namespace: &str, labels: impl Iterator<Item = (&'l str, &'l str)>) -> Self {
        let labels = joined(labels);
        self.with("agent", object(vec![("name", text(name)), ("namespace", text(namespace)), ("labels", labels)]))
    }

    /// Adds `run`.
    #[must_use]
    pub fn with_run(self, id: &str, explicit: bool) -> Self {
        self.with("run", object(vec![("id", text(id)), ("explicit", Box::new(CelBool::from(explicit)))]))
    }

    /// Adds `tool`.
    #[must_use]
    pub fn with_tool(self, name: &str, class: &str) -> Self {
        self.with("tool", object(vec![("name", text(name)), ("class", text(class))]))
    }

    /// Adds `attempt`, from 1.
    #[must_use]
    pub fn with_attempt(self, attempt: u32) -> Self {
        self.with("attempt", int(attempt))
    }

    fn with(mut self, name: &'static str, value: Value) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, Arc::from(value)));
        self
    }
}

impl VariableResolver for Facts {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let (_, value) = self.variables.iter().find(|(name, _)| *name == variable)?;
        Some(CowVal::Borrowed(value.as_ref()))
    }
}

fn text(text: &str) -> Value {
    Box::new(CelString::from(text.to_owned()))
}

fn int(int: impl Into<i64>) -> Value {
    Box::new(CelInt::from(int.into()))
}

fn object<S: Into<String>>(members: impl IntoIterator<Item = (S, Value)>) -> Value {
    let map: HashMap<CelMapKey<'static>, Value> = members.into_iter().map(|(name, value)| (CelMapKey::from(name.into()), value)).collect();
    Box::new(CelMap::from(map))
}

/// Several values under one name become one, joined by a comma.
fn joined<S: AsRef<str> + Into<String> + Eq + std::hash::Hash>(pairs: impl Iterator<Item = (S, S)>) -> Value {
    let mut map: HashMap<S, String> = HashMap::new();
    for (name, value) in pairs {
        map.entry(name)
            .and_modify(|known| {
                known.push_str(", ");
                known.push_str(value.as_ref());
            })
            .or_insert_with(|| value.as_ref().to_owned());
    }
    object(map.into_iter().map(|(name, value)| (name, Box::new(CelString::from(value)) as Value)))
}

/// `application/x-www-form-urlencoded` as the query of a URL carries it.
fn query(query: &str) -> Value {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    joined(pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    }))
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = if bytes[at] == b'%' { text.get(at + 1..at + 3) } else { None };
        // Numbers may have a sign, escapes may not.
        let escaped = hex.filter(|hex| !hex.starts_with('+')).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (escaped, bytes[at]) {
            (Some(byte), _) => {
                out.push(byte);
                at += 2;
            }
            (None, b'+') => out.push(b' '),
            (None, byte) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A JSON value as CEL sees it. A number that cannot be converted without changing it becomes a marker that errs when read.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Box::new(CelNull),
        Json::Bool(value) => Box::new(CelBool::from(*value)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => int(number),
            (None, Some(double)) => Box::new(CelDouble::from(double)),
            (None, None) => Box::new(CelBytes::from(number.canonical().as_bytes().to_vec())),
        },
        Json::String(string) => text(string),
        Json::Array(items) => Box::new(CelList::from(items.iter().map(value).collect::<Vec<_>>())),
        Json::Object(members) => object(members.iter().map(|(name, member)| (name.as_str(), value(member)))),
    }
}
