//! The names of things. Each is a type of its own with a checked constructor, so that a run can never stand where a span
//! should, and no unchecked text from outside gets further than the edge.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name that a caller may choose (run ids, agents, tenants): fits a header, a log line and an index key.
pub const NAME_MAX: usize = 128;

/// Why a text cannot be the name of that thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("{what} is empty; give 1 to {NAME_MAX} characters")]
    Empty {
        /// The kind of name.
        what: &'static str,
    },
    /// Longer than [`NAME_MAX`].
    #[error("{what} has {len} characters; at most {NAME_MAX} are allowed")]
    TooLong {
        /// The kind of name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// A character outside the allowed set.
    #[error("{what} has {found:?} at position {at}; allowed are letters, digits and . _ - : /")]
    Character {
        /// The kind of name.
        what: &'static str,
        /// The first character that is not allowed.
        found: char,
        /// Its byte position.
        at: usize,
    },
}

fn check_name(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > NAME_MAX {
        return Err(NameError::TooLong { what, len: text.len() });
    }
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'/');
    // The first byte that is not allowed begins a character: all before it are ASCII.
    match text.bytes().position(|byte| !is_allowed(&byte)) {
        Some(at) => Err(NameError::Character { what, found: text[at..].chars().next().unwrap_or_default(), at }),
        None => Ok(()),
    }
}

/// Longest DNS label (RFC 1123).
pub const DNS_LABEL_MAX: usize = 63;

/// Whether a text is a DNS label (RFC 1123), as the names of namespaces are: 1 to 63 lower-case letters, digits and hyphens, none of
/// them at an end.
pub fn is_dns_label(text: &str) -> bool {
    let sound = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= DNS_LABEL_MAX && text.bytes().all(sound) && !text.starts_with('-') && !text.ends_with('-')
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            #[doc = concat!("Checks and wraps ", $what, ": 1–128 of letters, digits and `. _ - : /`.")]
            pub fn new(text: &str) -> Result<Self, NameError> {
                check_name($what, text)?;
                Ok(Self(text.into()))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    )*};
}

names! {
    /// The isolation unit; in Kubernetes the namespace.
    TenantId = "tenant";
    /// Who acts: in a cluster namespace, ServiceAccount and topmost owner; on a laptop the `--agent` name.
    AgentId = "agent";
    /// One unit of work, explicit (`X-Kyb-Run-Id`) or implicit.
    RunId = "run id";
    /// A metered step inside a run; a UUID or what a client of the HTTP API chose.
    SpanId = "span id";
    /// One intended side effect's record.
    EffectId = "effect id";
    /// A decision that a person owes; also the name of the Gate object.
    GateId = "gate name";
    /// One life of one sidecar process.
    BootId = "boot id";
    /// One Decide call of one sidecar; a repeat carries the same.
    DecisionId = "decision id";
    /// The name of a tool registration, or of the implicit tool of an unregistered endpoint.
    ToolName = "tool";
}

impl AgentId {
    /// Its namespace: in a cluster an agent is namespace, ServiceAccount and topmost owner, with slashes between them.
    pub fn namespace(&self) -> &str {
        self.as_str().split('/').next().unwrap_or_default()
    }
}

/// Longest name of a person, in characters. Issuers with a subject behind them are long.
pub const PERSON_MAX: usize = 256;

/// Who decided something: a local user, or the subject that the API server vouches for. What names people are given elsewhere is
/// not ours to narrow: 1 to 256 characters, none of them a control character.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PersonId(std::sync::Arc<str>);

/// Why a text is no person's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PersonError {
    /// Too short or too long.
    #[error("a person's name has {0} characters; 1 to {PERSON_MAX} are allowed")]
    Length(usize),
    /// Nobody could read it.
    #[error("a person's name has the control character {0:?}")]
    Control(char),
}

impl PersonId {
    /// Checks and wraps a person's name.
    pub fn new(text: &str) -> Result<Self, PersonError> {
        let length = text.chars().count();
        match text.chars().find(|c| c.is_control()) {
            _ if !(1..=PERSON_MAX).contains(&length) => Err(PersonError::Length(length)),
            Some(control) => Err(PersonError::Control(control)),
            None => Ok(Self(text.into())),
        }
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PersonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PersonId {
    type Error = PersonError;
    fn try_from(text: String) -> Result<Self, PersonError> {
        Self::new(&text)
    }
}

impl std::str::FromStr for PersonId {
    type Err = PersonError;
    fn from_str(text: &str) -> Result<Self, PersonError> {
        Self::new(text)
    }
}

impl From<PersonId> for String {
    fn from(person: PersonId) -> Self {
        person.0.as_ref().to_owned()
    }
}

macro_rules! digests {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes that a digest or MAC made.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// 64 lower-case hexadecimal digits.
            pub fn to_hex(&self) -> String {
                hex::encode(self.0)
            }

            /// Reads 64 hexadecimal digits.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).ok()?;
                Some(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Eight digits tell two apart in a log; keys are secrets, so no more is shown.
                write!(f, concat!(stringify!($name), "({}…)"), &self.to_hex()[..8])
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.to_hex())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                Self::from_hex(&text).ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
            }
        }
    )*};
}

digests! {
    /// HMAC of an effect key with its scope: what a claim is looked up by.
    KeyDigest;
    /// SHA-256 of the canonical body, kept with the claim.
    Fingerprint;
    /// HMAC over method, URL and canonical body, without the principal: what calls that mean the same share.
    Meaning;
    /// HMAC of on whose behalf a call is made.
    Principal;
    /// SHA-256 of a PolicySet in canonical JSON.
    PolicyDigest;
    /// What a gate binds: method, URL, principal and the body less its volatile fields.
    RequestDigest;
    /// A link of a run's hash chain.
    ChainHash;
    /// SHA-256 of an answer's body bytes as they were received.
    BodyDigest;
}
