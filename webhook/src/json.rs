//! Reading raw JSON at the edge: a member of the wrong kind is a fault with its path, an absent one and `null` are the same,
//! and what is not asked for stays where it is.

use serde_json::Value;

use crate::path::FieldPath;
use crate::refusal::Findings;

/// A JSON object.
pub(crate) type Object = serde_json::Map<String, Value>;

/// An object and its place.
#[derive(Clone, Copy)]
pub(crate) struct At<'o> {
    pub(crate) object: &'o Object,
    pub(crate) path: &'o FieldPath,
}

impl<'o> At<'o> {
    pub(crate) fn text(self, key: &str, findings: &mut Findings) -> Option<&'o str> {
        self.read(key, "a string", Value::as_str, findings)
    }

    pub(crate) fn flag(self, key: &str, findings: &mut Findings) -> Option<bool> {
        self.read(key, "true or false", Value::as_bool, findings)
    }

    pub(crate) fn whole(self, key: &str, findings: &mut Findings) -> Option<i64> {
        self.read(key, "a whole number", Value::as_i64, findings)
    }

    pub(crate) fn object(self, key: &str, findings: &mut Findings) -> Option<&'o Object> {
        self.read(key, "an object", Value::as_object, findings)
    }

    /// A list of strings.
    pub(crate) fn texts(self, key: &str, findings: &mut Findings) -> Vec<String> {
        let read = |value: &Value| value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        self.read(key, "a list of strings", read, findings).unwrap_or_default()
    }

    /// A list of objects, each with its place.
    pub(crate) fn objects(self, key: &str, findings: &mut Findings) -> Vec<(FieldPath, &'o Object)> {
        let at = self.path.member(key);
        let items = self.read(key, "a list", Value::as_array, findings).map(Vec::as_slice).unwrap_or_default();
        let mut objects = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item {
                Value::Object(object) => objects.push((at.index(index), object)),
                other => wrong(at.index(index), other, "an object", findings),
            }
        }
        objects
    }

    fn read<T>(self, key: &str, expected: &str, read: impl Fn(&'o Value) -> Option<T>, findings: &mut Findings) -> Option<T> {
        let value = self.object.get(key).filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            wrong(self.path.member(key), value, expected, findings);
        }
        read
    }
}

/// Says that a value is of the wrong kind.
pub(crate) fn wrong(path: FieldPath, value: &Value, expected: &str, findings: &mut Findings) {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    findings.fault(path, format!("is {found} where {expected} belongs"), "Correct the manifest");
}

/// Takes an object out of its owner, so that it can be changed; [`put_object`] puts it back.
pub(crate) fn take_object(owner: &mut Object, key: &str, path: &FieldPath, findings: &mut Findings) -> Object {
    match owner.get_mut(key) {
        None | Some(Value::Null) => Object::new(),
        Some(Value::Object(object)) => std::mem::take(object),
        Some(other) => {
            wrong(path.member(key), other, "an object", findings);
            Object::new()
        }
    }
}

/// Takes a list of objects out of its owner; [`put_objects`] puts it back.
pub(crate) fn take_objects(owner: &mut Object, key: &str, path: &FieldPath, findings: &mut Findings) -> Vec<(FieldPath, Object)> {
    let at = path.member(key);
    let items = match owner.get_mut(key) {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(items)) => std::mem::take(items),
        Some(other) => {
            wrong(at, other, "a list", findings);
            return Vec::new();
        }
    };
    let mut objects = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        match item {
            Value::Object(object) => objects.push((at.index(index), object)),
            other => wrong(at.index(index), &other, "an object", findings),
        }
    }
    objects
}

/// What was absent or null and is still empty stays so.
pub(crate) fn put_object(owner: &mut Object, key: &str, object: Object) {
    if !object.is_empty() {
        owner.insert(key.to_owned(), Value::Object(object));
    }
}

/// What was absent or null and is still empty stays so.
pub(crate) fn put_objects(owner: &mut Object, key: &str, objects: impl IntoIterator<Item = Object>) {
    let items: Vec<Value> = objects.into_iter().map(Value::Object).collect();
    if !items.is_empty() {
        owner.insert(key.to_owned(), Value::Array(items));
    }
}
