//! Headers that a registration may set: not those that frame the request or belong to one hop (RFC 9110, 7.6.1), and none of ours.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{FieldName, ValueError, text_values};

/// What the sidecar makes anew for each request, or takes off it.
const HOP: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];
/// By what the far side knows the caller: a key in its place would send the call under nobody's name.
const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];
const OURS: &str = "x-kyb-";

fn is_free(name: &str) -> bool {
    !HOP.contains(&name) && !name.starts_with(OURS)
}

/// The far side's own idempotency header, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHeader(FieldName);

impl KeyHeader {
    /// Checks the name.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        let name = FieldName::new(text)?;
        let sound = is_free(&name.0) && !CREDENTIALS.contains(&name.0.as_str());
        if sound { Ok(Self(name)) } else { Err(ValueError::KeyHeader(text.to_owned())) }
    }
}

/// A header that a probe carries, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProbeHeader(FieldName);

impl ProbeHeader {
    /// Checks the name.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        let name = FieldName::new(text)?;
        if is_free(&name.0) { Ok(Self(name)) } else { Err(ValueError::ProbeHeader(text.to_owned())) }
    }
}

impl fmt::Display for KeyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ProbeHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_values! {
    KeyHeader: "The name of a header, none that frames the request, is for one hop, is a credential, or is ours.", {
        "pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", "maxLength": 128, "x-kubernetes-validations": [{
            "rule": "!self.matches('(?i)^(connection|content-length|expect|host|http2-settings|keep-alive|proxy-authenticate|proxy-authorization|proxy-connection|te|trailer|trailers|transfer-encoding|upgrade|authorization|cookie|x-kyb-.*)$')",
            "message": "frames the request, proves who sends it, or is ours. Name the far side's own header, as in Idempotency-Key",
        }]};
    // As a member's name the schema cannot judge it: those who read the object do.
    ProbeHeader: "The name of a header, none that frames the request, is for one hop, or is ours.", {"maxLength": 128};
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every name that is not free, as people may spell it.
    const TAKEN: [&str; 6] = ["Host", "Content-Length", "TRANSFER-ENCODING", "connection", "Keep-Alive", "X-Kyb-Run-Id"];

    #[test]
    fn what_frames_a_request_or_is_ours_is_nobody_s_to_set() {
        for name in TAKEN {
            assert_eq!(KeyHeader::new(name), Err(ValueError::KeyHeader(name.to_owned())), "{name}");
            assert_eq!(ProbeHeader::new(name), Err(ValueError::ProbeHeader(name.to_owned())), "{name}");
        }
        for name in ["Authorization", "Cookie"] {
            assert!(KeyHeader::new(name).is_err() && ProbeHeader::new(name).is_ok(), "{name}");
        }
        for name in ["Idempotency-Key", "X-Request-Id", "Hostess"] {
            assert_eq!(KeyHeader::new(name).unwrap().to_string(), name.to_ascii_lowercase());
        }
        assert_eq!(KeyHeader::new("a b"), Err(ValueError::FieldName("a b".to_owned())));
    }

    #[test]
    fn the_api_server_is_told_the_same_names() {
        let schema = KeyHeader::json_schema(&mut SchemaGenerator::default());
        let rule = schema.pointer("/x-kubernetes-validations/0/rule").unwrap().as_str().unwrap();
        let listed = rule.split_once("^(").unwrap().1.split_once(")$").unwrap().0;
        let expected = [HOP.as_slice(), &CREDENTIALS, &["x-kyb-.*"]].concat().join("|");
        assert_eq!(listed, expected);
    }
}
