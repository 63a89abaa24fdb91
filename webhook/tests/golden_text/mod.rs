//! JSON as people can read it: keys sorted, and whatever fits on a line on one line.

use serde_json::Value;

const WIDTH: usize = 150;

/// The text of a value, without a line's end.
pub(crate) fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, 0, &mut out);
    out
}

fn write(value: &Value, indent: usize, before: usize, out: &mut String) {
    let flat = flat(value);
    if indent + before + flat.len() <= WIDTH {
        return out.push_str(&flat);
    }
    let deeper = indent + 2;
    let mut lines = |open: char, close: char, lines: Vec<(String, &Value)>| {
        out.push(open);
        for (at, (key, value)) in lines.iter().enumerate() {
            out.push_str(if at == 0 { "\n" } else { ",\n" });
            out.push_str(&" ".repeat(deeper));
            out.push_str(key);
            write(value, deeper, key.len(), out);
        }
        out.push('\n');
        out.push_str(&" ".repeat(indent));
        out.push(close);
    };
    match value {
        Value::Array(items) => lines('[', ']', items.iter().map(|item| (String::new(), item)).collect()),
        Value::Object(_) => lines('{', '}', sorted(value).map(|(key, value)| (format!("{}: ", Value::from(key)), value)).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&flat),
    }
}

fn flat(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(flat).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => {
            let members: Vec<String> = sorted(value).map(|(key, value)| format!("{}: {}", Value::from(key), flat(value))).collect();
            format!("{{{}}}", members.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// Names first, then by the alphabet.
fn sorted(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let mut members: Vec<(&str, &Value)> = value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value)).collect();
    members.sort_by_key(|(key, _)| (*key != "name", *key));
    members.into_iter()
}
