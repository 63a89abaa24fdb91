//! The caller's own key: `X-Kyb-Idempotency-Key`, or `Idempotency-Key` of the IETF draft, quoted or bare.

use std::fmt;

// Longest key in characters.
pub(super) const KEY_MAX: usize = 255;

/// A caller's key. A secret: shown by its first eight characters only.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// Why a header holds no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing in it.
    #[error("{header} is empty; give 1 to {KEY_MAX} characters")]
    Empty {
        /// The header.
        header: &'static str,
    },
    /// More than [`KEY_MAX`].
    #[error("{header} has {len} characters; at most {KEY_MAX} are allowed")]
    TooLong {
        /// The header.
        header: &'static str,
        /// Its length.
        len: usize,
    },
    /// A byte that no key may hold.
    #[error("{header} has a character at position {at} that is not visible ASCII or a space")]
    Character {
        /// The header.
        header: &'static str,
        /// Where.
        at: usize,
    },
    /// A quoted string that does not follow RFC 8941.
    #[error("{header} begins with a quote but is no RFC 8941 string")]
    Quotes {
        /// The header.
        header: &'static str,
    },
    /// The same header more than once.
    #[error("{header} is given {count} times; give it once")]
    Repeated {
        /// The header.
        header: &'static str,
        /// How often.
        count: usize,
    },
    /// Two headers with two keys.
    #[error("X-Kyb-Idempotency-Key and Idempotency-Key disagree; give one, or the same in both")]
    Disagree,
}

/// The header of ours.
pub(super) const OURS: &str = "X-Kyb-Idempotency-Key";
/// The header of the IETF draft.
pub(super) const IETF: &str = "Idempotency-Key";

impl IdempotencyKey {
    /// The key itself, for hashing and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The first eight characters, for people.
    pub fn hint(&self) -> String {
        super::hint(&self.0)
    }

    fn parse(header: &'static str, value: &[u8], quotes: bool) -> Result<Self, KeyError> {
        let visible = |b: &u8| b.is_ascii_graphic() || *b == b' ';
        if let Some(at) = value.iter().position(|b| !visible(b)) {
            return Err(KeyError::Character { header, at });
        }
        let text: String = value.iter().copied().map(char::from).collect();
        let trimmed = text.trim_matches(' ');
        let key = if quotes && trimmed.starts_with('"') { unquote(header, trimmed)? } else { trimmed.to_owned() };
        match key.len() {
            0 => Err(KeyError::Empty { header }),
            len if len > KEY_MAX => Err(KeyError::TooLong { header, len }),
            _ => Ok(Self(key)),
        }
    }
}

/// RFC 8941, 3.3.3: `\"` and `\\` are the only escapes. A parameter after the string is not part of a key.
fn unquote(header: &'static str, text: &str) -> Result<String, KeyError> {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|_| text.len() > 1);
    let mut chars = inner.ok_or(KeyError::Quotes { header })?.chars();
    let mut out = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Err(KeyError::Quotes { header }),
            '\\' => match chars.next() {
                Some(escaped @ ('"' | '\\')) => out.push(escaped),
                Some(_) | None => return Err(KeyError::Quotes { header }),
            },
            other => out.push(other),
        }
    }
    Ok(out)
}

/// The key of a request, from the values of both headers.
pub fn of_headers<'v>(
    ours: impl Iterator<Item = &'v [u8]>,
    ietf: impl Iterator<Item = &'v [u8]>,
) -> Result<Option<IdempotencyKey>, KeyError> {
    let ours = single(OURS, ours, false)?;
    let ietf = single(IETF, ietf, true)?;
    match (ours, ietf) {
        (Some(ours), Some(ietf)) if ours != ietf => Err(KeyError::Disagree),
        (Some(key), _) | (None, Some(key)) => Ok(Some(key)),
        (None, None) => Ok(None),
    }
}

fn single<'v>(header: &'static str, values: impl Iterator<Item = &'v [u8]>, quotes: bool) -> Result<Option<IdempotencyKey>, KeyError> {
    let values: Vec<&[u8]> = values.collect();
    match values.as_slice() {
        [] => Ok(None),
        [value] => IdempotencyKey::parse(header, value, quotes).map(Some),
        several => Err(KeyError::Repeated { header, count: several.len() }),
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({}…)", self.hint())
    }
}
