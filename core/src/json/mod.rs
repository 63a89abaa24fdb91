//! Strict JSON and its one canonical form (RFC 8259, RFC 8785), so that two bodies that mean the same have one fingerprint.
//!
//! Beyond RFC 8785: a number whose value is not that of the shortest decimal of its double (an integer over 2^53, a decimal
//! with too many digits, an overflow) stands as its own normalised decimal, `digits e exponent`, so that two such numbers
//! never share a fingerprint.

mod number;
mod parse;
mod pointer;

pub use number::Number;
pub use parse::{DEPTH_MAX, JsonError};
pub use pointer::{Pointer, PointerError};

/// A JSON document in which every member name is unique within its object.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number, exact.
    Number(Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Self>),
    /// An object; members in the order of the document.
    Object(Vec<(String, Self)>),
}

impl Json {
    /// Parses a whole document: UTF-8 without a byte order mark, one value, unique member names, at most [`DEPTH_MAX`] deep.
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        parse::document(bytes)
    }

    /// The member of an object.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) | Self::Array(_) => None,
        }
    }

    /// The canonical bytes (RFC 8785), less whatever the volatile pointers name.
    pub fn canonical(&self, volatile: &[Pointer]) -> Vec<u8> {
        let mut out = String::new();
        let live: Vec<&[String]> = volatile.iter().map(Pointer::tokens).collect();
        self.write(&mut out, &live);
        out.into_bytes()
    }

    /// Writes this value; `volatile` holds what is left of the pointers that lead into it.
    fn write(&self, out: &mut String, volatile: &[&[String]]) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(number) => out.push_str(number.canonical()),
            Self::String(text) => write_string(out, text),
            Self::Array(items) => {
                out.push('[');
                let mut first = true;
                for (at, item) in items.iter().enumerate() {
                    if let Some(deeper) = into(volatile, &at.to_string()) {
                        separate(out, &mut first);
                        item.write(out, &deeper);
                    }
                }
                out.push(']');
            }
            Self::Object(members) => {
                let mut sorted: Vec<&(String, Self)> = members.iter().collect();
                // RFC 8785, 3.2.3: by UTF-16 code units, which differs from UTF-8 order above the basic plane.
                sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
                out.push('{');
                let mut first = true;
                for (name, value) in sorted {
                    if let Some(deeper) = into(volatile, name) {
                        separate(out, &mut first);
                        write_string(out, name);
                        out.push(':');
                        value.write(out, &deeper);
                    }
                }
                out.push('}');
            }
        }
    }
}

/// What is left of the pointers below `token`, or `None` when one of them ends there.
fn into<'p>(volatile: &[&'p [String]], token: &str) -> Option<Vec<&'p [String]>> {
    let mut deeper = Vec::new();
    for pointer in volatile {
        if let Some((head, rest)) = pointer.split_first()
            && head == token
        {
            if rest.is_empty() {
                return None;
            }
            deeper.push(rest);
        }
    }
    Some(deeper)
}

fn separate(out: &mut String, first: &mut bool) {
    if !std::mem::take(first) {
        out.push(',');
    }
}

/// RFC 8785, 3.2.2.2: the short escapes, `\u00xx` for other controls, everything else as it is.
fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests;
