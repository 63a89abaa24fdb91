//! Paths as policy compares them. Servers read `/v1/%6frders`, `/v1//orders` and `/v1/x/../orders` as `/v1/orders`, so the
//! rules do too: a rule that a spelling can slip past is none.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest pattern; longer than any API's path, short enough for a log line.
pub const PATH_PATTERN_MAX: usize = 1024;

/// A request's path in one spelling: without query, escapes of unreserved characters decoded and the others in upper case
/// (RFC 3986 6.2.2), dot segments resolved, runs of slashes folded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalPath(String);

impl CanonicalPath {
    /// Reads the path of a request target; what follows `?` or `#` is left out.
    pub fn new(raw: &str) -> Self {
        let raw = raw.split(['?', '#']).next().unwrap_or_default();
        let decoded = decode_unreserved(raw);
        let mut segments: Vec<&str> = Vec::new();
        for segment in decoded.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    segments.pop();
                }
                other => segments.push(other),
            }
        }
        let directory = decoded.ends_with('/') || decoded.ends_with("/.") || decoded.ends_with("/..");
        let mut path = String::with_capacity(decoded.len() + 1);
        for segment in &segments {
            path.push('/');
            path.push_str(segment);
        }
        if directory || path.is_empty() {
            path.push('/');
        }
        Self(path)
    }

    /// The canonical text, which begins with a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path without the slash that may end it.
    fn trunk(&self) -> &str {
        self.0.strip_suffix('/').unwrap_or(&self.0)
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Decodes escaped unreserved characters, and writes the other escapes in upper case. A percent sign that escapes nothing
/// stays as it is, unless what follows it comes out as two hexadecimal digits: then it is escaped, for the result must not
/// hold an escape that the path did not.
pub(crate) fn decode_unreserved(raw: &str) -> String {
    if !raw.contains('%') {
        return raw.to_owned();
    }
    let bytes = raw.as_bytes();
    let mut out = String::with_capacity(raw.len());
    let mut stray = None;
    let mut at = 0;
    while let Some(c) = raw.get(at..).and_then(|rest| rest.chars().next()) {
        let escaped = (c == '%')
            .then(|| bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') => {
                out.push(char::from(byte));
                at += 3;
            }
            Some(byte) => {
                out.push_str(&format!("%{byte:02X}"));
                at += 3;
            }
            None => {
                stray = if c == '%' { Some(out.len()) } else { stray };
                out.push(c);
                at += c.len_utf8();
            }
        }
        if let Some([b'%', high, low]) = stray.and_then(|stray| out.as_bytes().get(stray..))
            && high.is_ascii_hexdigit()
            && low.is_ascii_hexdigit()
        {
            out.insert_str(out.len() - 2, "25");
        }
    }
    out
}

/// How a path pattern is read (`match.paths[].type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum PathKind {
    /// The path is the value.
    Exact,
    /// The path is the value or lies below it, by whole segments.
    Prefix,
    /// The path fits the value, whose `{name}` segments stand for any one segment.
    Template,
}

/// Why a text is no path pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("{found:?} does not begin with /. Write the whole path, as in /v1/orders")]
    NoSlash {
        /// The text.
        found: String,
    },
    /// A query or fragment was given along.
    #[error("{found:?} has a query or fragment. Write the path only; a rule's `when` can look at request.query")]
    Query {
        /// The text.
        found: String,
    },
    /// A brace that is not a whole `{name}` segment.
    #[error("segment {segment:?} of {found:?} is not a whole {{name}}. A template's variable fills its segment, as in /v1/orders/{{id}}")]
    Variable {
        /// The text.
        found: String,
        /// The segment with a brace.
        segment: String,
    },
    /// Braces where nothing is a variable.
    #[error("{found:?} has a {{name}} but is not a Template. Set `type: Template`")]
    NotTemplate {
        /// The text.
        found: String,
    },
    /// Longer than [`PATH_PATTERN_MAX`].
    #[error("the path has {len} characters; at most {PATH_PATTERN_MAX} are allowed. Shorten it")]
    TooLong {
        /// Its length.
        len: usize,
    },
}

/// One entry of `match.paths`, checked and in canonical spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawPath", into = "RawPath")]
pub struct PathPattern {
    kind: PathKind,
    value: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct RawPath {
    #[serde(rename = "type")]
    kind: PathKind,
    value: String,
}

impl TryFrom<RawPath> for PathPattern {
    type Error = PathError;
    fn try_from(raw: RawPath) -> Result<Self, PathError> {
        Self::new(raw.kind, &raw.value)
    }
}

impl From<PathPattern> for RawPath {
    fn from(pattern: PathPattern) -> Self {
        Self { kind: pattern.kind, value: pattern.value }
    }
}

/// How narrowly a pattern fits: the greater of two wins. Among templates a literal beats a variable, from the left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathRank {
    /// Every path.
    Any,
    /// A prefix of so many bytes.
    Prefix(usize),
    /// A template: which of its segments are literal, from the left.
    Template(Vec<bool>),
    /// One path.
    Exact,
}

impl PathPattern {
    /// Reads a pattern.
    pub fn new(kind: PathKind, text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_PATTERN_MAX {
            return Err(PathError::TooLong { len: text.len() });
        }
        if !text.starts_with('/') {
            return Err(PathError::NoSlash { found: text.to_owned() });
        }
        if text.contains(['?', '#']) {
            return Err(PathError::Query { found: text.to_owned() });
        }
        let braced = |segment: &&str| segment.contains(['{', '}']);
        if let Some(segment) = text.split('/').find(braced) {
            if kind != PathKind::Template {
                return Err(PathError::NotTemplate { found: text.to_owned() });
            }
            if let Some(segment) = text.split('/').filter(braced).find(|segment| !is_variable(segment)) {
                return Err(PathError::Variable { found: text.to_owned(), segment: segment.to_owned() });
            }
            debug_assert!(is_variable(segment));
        }
        let canonical = CanonicalPath::new(text);
        let value = match kind {
            PathKind::Exact => canonical.0,
            // Templates and prefixes fit with and without the last slash, so that nobody steps past one by adding it.
            PathKind::Prefix | PathKind::Template => canonical.trunk().to_owned(),
        };
        Ok(Self { kind, value: if value.is_empty() { "/".to_owned() } else { value } })
    }

    /// Whether the path fits.
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        let own = self.value.strip_suffix('/').unwrap_or(&self.value);
        match self.kind {
            PathKind::Exact => path.0 == self.value,
            PathKind::Prefix => path.0.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            PathKind::Template => {
                let mut segments = path.trunk().split('/');
                let fits = own
                    .split('/')
                    .all(|wanted| segments.next().is_some_and(|found| (is_variable(wanted) && !found.is_empty()) || wanted == found));
                fits && segments.next().is_none()
            }
        }
    }

    pub(super) fn rank(&self) -> PathRank {
        match self.kind {
            PathKind::Exact => PathRank::Exact,
            PathKind::Prefix => PathRank::Prefix(self.value.len()),
            PathKind::Template => PathRank::Template(self.value.split('/').map(|s| !is_variable(s)).collect()),
        }
    }

    /// Whether some path fits both patterns, which are of equal rank.
    pub(super) fn meets(&self, other: &Self) -> bool {
        match self.kind {
            PathKind::Exact | PathKind::Prefix => self.value == other.value,
            PathKind::Template => {
                let (own, others) = (self.value.split('/'), other.value.split('/'));
                own.clone().count() == others.clone().count() && own.zip(others).all(|(a, b)| is_variable(a) || is_variable(b) || a == b)
            }
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.value)
    }
}

fn is_variable(segment: &str) -> bool {
    segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).is_some_and(|name| !name.is_empty() && !name.contains(['{', '}']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        let check = |raw: &str, expect: &str| assert_eq!(CanonicalPath::new(raw).as_str(), expect, "{raw}");
        check("/v1/%6frders?x=1", "/v1/orders");
        check("/v1//orders", "/v1/orders");
        check("/v1/x/../orders/./", "/v1/orders/");
        check("/v1/%2e%2e/admin", "/admin");
        check("/../../etc", "/etc");
        check("/a%2fb", "/a%2Fb");
        check("/a%zz", "/a%zz");
        check("/a%%34%31%4%31", "/a%2541%2541");
        check("/é%", "/é%");
        check("", "/");
        check("*", "/*");
    }

    #[test]
    fn a_pattern_means_its_paths_and_no_others() {
        let check = |kind, value: &str, path: &str, expect: bool| {
            let pattern = PathPattern::new(kind, value).unwrap();
            assert_eq!(pattern.matches(&CanonicalPath::new(path)), expect, "{pattern} on {path}");
        };
        check(PathKind::Exact, "/v1/orders", "/v1/orders", true);
        check(PathKind::Exact, "/v1/orders", "/v1/orders/", false);
        check(PathKind::Prefix, "/v1", "/v1", true);
        check(PathKind::Prefix, "/v1/", "/v1", true);
        check(PathKind::Prefix, "/v1", "/v1/orders", true);
        check(PathKind::Prefix, "/v1", "/v10", false);
        check(PathKind::Prefix, "/", "/anything", true);
        check(PathKind::Template, "/v1/orders", "/v1/orders/", true);
        check(PathKind::Template, "/v1/orders/{id}", "/v1/orders/7", true);
        check(PathKind::Template, "/v1/orders/{id}", "/v1/orders/7/x", false);
        check(PathKind::Template, "/v1/orders/{id}", "/v1/orders/", false);
        check(PathKind::Template, "/", "/", true);
        check(PathKind::Template, "/{a}", "/", false);
    }

    #[test]
    fn a_bad_pattern_says_what_is_wrong() {
        let check = |kind, value: &str, expect: &str| {
            assert_eq!(PathPattern::new(kind, value).unwrap_err().to_string(), expect);
        };
        check(PathKind::Exact, "v1", "\"v1\" does not begin with /. Write the whole path, as in /v1/orders");
        check(PathKind::Exact, "/v1/{id}", "\"/v1/{id}\" has a {name} but is not a Template. Set `type: Template`");
        check(
            PathKind::Template,
            "/v1/x{id}",
            "segment \"x{id}\" of \"/v1/x{id}\" is not a whole {name}. A template's variable fills its segment, as in /v1/orders/{id}",
        );
        check(
            PathKind::Template,
            "/v1?x",
            "\"/v1?x\" has a query or fragment. Write the path only; a rule's `when` can look at request.query",
        );
    }

    #[test]
    fn a_literal_beats_a_variable_from_the_left() {
        let rank = |value| PathPattern::new(PathKind::Template, value).unwrap().rank();
        assert!(rank("/a/b/{y}") > rank("/a/{x}/b"));
        assert!(rank("/a/b") > rank("/a/{x}"));
        assert!(PathRank::Exact > rank("/a/b"));
        assert!(rank("/{a}") > PathRank::Prefix(900));
    }
}
