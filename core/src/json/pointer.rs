//! JSON pointers (RFC 6901), as policies write them.

use std::fmt;

/// A pointer to a member or item, never to the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// Why a text is no pointer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// It does not begin with `/`.
    #[error("a JSON pointer begins with `/`, like `/sent_at`")]
    Start,
    /// `~` is not followed by 0 or 1.
    #[error("in a JSON pointer `~` is written `~0` and `/` is written `~1`")]
    Escape,
}

impl Pointer {
    /// Reads a pointer such as `/items/0/sent_at`.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        let rest = text.strip_prefix('/').ok_or(PointerError::Start)?;
        rest.split('/').map(unescape).collect::<Result<_, _>>().map(Self)
    }

    /// The member names and positions that it names, unescaped, from the root on.
    pub fn tokens(&self) -> &[String] {
        &self.0
    }
}

fn unescape(token: &str) -> Result<String, PointerError> {
    let mut parts = token.split('~');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (replaced, rest) = match part.as_bytes().first() {
            Some(b'0') => ('~', &part[1..]),
            Some(b'1') => ('/', &part[1..]),
            Some(_) | None => return Err(PointerError::Escape),
        };
        out.push(replaced);
        out.push_str(rest);
    }
    Ok(out)
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|token| write!(f, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}
