//! What a sound HTTP/1 head is (RFC 9112), stricter than the RFC wherever two readers could disagree.

use http::StatusCode;
use memchr::{memchr, memchr_iter, memmem};

/// Fields in one head, or one trailer section.
const FIELDS: usize = 256;

/// Why a message goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) detail: &'static str,
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, detail }
}

pub(super) const NOT_HTTP: Refusal = bad("This port speaks plain HTTP; what arrived is not an HTTP request line.");
pub(super) const LONG_HEAD: Refusal =
    Refusal { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail: "The request head, or its trailers, exceed 64 KiB." };
const MANY_FIELDS: Refusal =
    Refusal { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail: "The request has more than 256 header fields." };
// Not 408, which SDKs retry by themselves.
pub(super) const SLOW_HEAD: Refusal = bad("The request head was not complete within 15 seconds.");
pub(super) const LONG_CHUNK_LINE: Refusal = bad("A chunk-size line exceeds 256 bytes.");

const REQUEST_LINE: Refusal = bad("The request line is not `METHOD target HTTP/1.1`.");
const VERSION: Refusal =
    Refusal { status: StatusCode::HTTP_VERSION_NOT_SUPPORTED, detail: "This port speaks HTTP/1.1, HTTP/1.0 and HTTP/2." };
const BARE_LF: Refusal = bad("A line of the head ends in a bare LF; it must end in CRLF.");
const BARE_CR: Refusal = bad("The head has a CR that no LF follows.");
const FOLDED: Refusal = bad("A header field continues on a second line (obs-fold).");
const FIELD_NAME: Refusal = bad("A header field's name is empty, has whitespace before its colon, or has forbidden characters.");
const FIELD_VALUE: Refusal = bad("A header field's value has control characters.");
const LENGTH_AND_CODING: Refusal = bad("The head has both Content-Length and Transfer-Encoding.");
const LENGTH: Refusal = bad("Content-Length is not one plain number.");
const TWO_LENGTHS: Refusal = bad("The head has two Content-Length fields.");
const CODING: Refusal = bad("Transfer-Encoding is not `chunked`, once.");
const CODING_IN_10: Refusal = bad("An HTTP/1.0 request cannot have Transfer-Encoding.");
const TWO_HOSTS: Refusal = bad("The head has two Host fields.");
const NO_HOST: Refusal = bad("The head has no Host field.");
const CHUNK_SIZE: Refusal = bad("A chunk's size is not a hexadecimal number.");
const CHUNK_END: Refusal = bad("A chunk does not end where its size says.");
const TRAILER_NAME: Refusal = bad("A trailer field has a name that belongs to the head (framing, Host).");

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    /// After the body, if there is one, the answer decides what follows (RFC 9110, 7.8).
    pub(super) upgrade: bool,
}

pub(super) const fn bounded(len: usize, bound: usize, refusal: Refusal) -> Result<(), Refusal> {
    if len > bound { Err(refusal) } else { Ok(()) }
}

pub(super) fn may_begin_head(bytes: &[u8]) -> bool {
    match bytes {
        [] | [b'\r'] | [b'\r', b'\n', ..] => true,
        [first, ..] => is_token_char(*first),
    }
}

/// Where the head ends, its empty line included. Nothing before `seen` needs to be searched again. A bare LF ends the
/// search too, so that it is judged at once.
pub(super) fn head_end(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    if let Some(at) = memmem::find(&bytes[from..], b"\r\n\r\n") {
        return Some(from + at + 4);
    }
    let mut ends = memchr_iter(b'\n', &bytes[from..]).map(|at| from + at);
    ends.find(|at| *at == 0 || bytes[at - 1] != b'\r').map(|at| at + 1)
}

/// Judges a whole head.
pub(super) fn head(bytes: &[u8]) -> Result<Head, Refusal> {
    let mut lines = Lines(bytes);
    let line = lines.next_line()?.ok_or(REQUEST_LINE)?;
    let (method, http10) = request_line(line)?;
    let mut facts = Facts::default();
    fields(lines, |name, value| facts.note(name, value))?;
    if facts.hosts == 0 && !http10 {
        return Err(NO_HOST);
    }
    let framing = match (facts.length, facts.chunked) {
        (Some(_), true) => return Err(LENGTH_AND_CODING),
        (_, true) if http10 => return Err(CODING_IN_10),
        (_, true) => Framing::Chunked,
        (length, false) if method == b"CONNECT" => match length {
            None | Some(0) => Framing::Connect,
            Some(_) => return Err(bad("A CONNECT request cannot have a body.")),
        },
        (length, false) => Framing::Length(length.unwrap_or(0)),
    };
    Ok(Head { framing, upgrade: facts.upgrade })
}

/// Judges a whole trailer section, its empty line included.
pub(super) fn trailers(bytes: &[u8]) -> Result<(), Refusal> {
    const OF_THE_HEAD: [&str; 4] = ["content-length", "transfer-encoding", "host", "trailer"];
    fields(Lines(bytes), |name, _| {
        let forbidden = OF_THE_HEAD.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()));
        if forbidden { Err(TRAILER_NAME) } else { Ok(()) }
    })
}

/// A chunk-size line, its LF included.
pub(super) fn chunk_size(line: &[u8]) -> Result<u64, Refusal> {
    let line = line.strip_suffix(b"\r\n").ok_or(BARE_LF)?;
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extension) = line.split_at(digits);
    // 15 digits: 2^60, and no overflow to think about.
    if digits.is_empty() || digits.len() > 15 {
        return Err(CHUNK_SIZE);
    }
    let blank = extension.iter().position(|b| !matches!(b, b' ' | b'\t'));
    let extension_ok = match blank {
        None => extension.is_empty(),
        Some(at) => extension[at] == b';' && extension.iter().all(|b| is_value_byte(*b)),
    };
    if !extension_ok {
        return Err(CHUNK_SIZE);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| CHUNK_SIZE)?;
    u64::from_str_radix(digits, 16).map_err(|_| CHUNK_SIZE)
}

pub(super) fn chunk_end(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.starts_with(b"\r\n") { Ok(()) } else { Err(CHUNK_END) }
}

#[derive(Debug, Default)]
struct Facts {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl Facts {
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        // By length first: most names are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err(TWO_HOSTS);
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = length(value)?;
                if self.length.replace(length).is_some() {
                    return Err(TWO_LENGTHS);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(CODING);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

fn length(value: &[u8]) -> Result<u64, Refusal> {
    // 18 digits: no overflow.
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(LENGTH);
    }
    let digits = std::str::from_utf8(value).map_err(|_| LENGTH)?;
    digits.parse().map_err(|_| LENGTH)
}

/// The method, and whether the version is HTTP/1.0.
fn request_line(line: &[u8]) -> Result<(&[u8], bool), Refusal> {
    let space = memchr(b' ', line).ok_or(REQUEST_LINE)?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    let space = memchr(b' ', rest).ok_or(REQUEST_LINE)?;
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    let visible = |b: &u8| (0x21..0x7f).contains(b);
    if method.is_empty() || !method.iter().all(|b| is_token_char(*b)) || target.is_empty() || !target.iter().all(visible) {
        return Err(REQUEST_LINE);
    }
    match version {
        b"HTTP/1.1" => Ok((method, false)),
        b"HTTP/1.0" => Ok((method, true)),
        _ if version.starts_with(b"HTTP/") => Err(VERSION),
        _ => Err(REQUEST_LINE),
    }
}

fn fields(mut lines: Lines<'_>, mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Refusal>) -> Result<(), Refusal> {
    let mut count = 0;
    while let Some(line) = lines.next_line()? {
        let Some(first) = line.first() else {
            return Ok(());
        };
        if matches!(first, b' ' | b'\t') {
            return Err(FOLDED);
        }
        count += 1;
        if count > FIELDS {
            return Err(MANY_FIELDS);
        }
        let colon = memchr(b':', line).ok_or(FIELD_NAME)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|b| is_token_char(*b)) {
            return Err(FIELD_NAME);
        }
        if !value.iter().all(|b| is_value_byte(*b)) {
            return Err(FIELD_VALUE);
        }
        each(name, trim(value))?;
    }
    Ok(())
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Lines that end in CRLF; any other CR or LF is an error.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next_line(&mut self) -> Result<Option<&'a [u8]>, Refusal> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let end = memchr(b'\n', self.0).ok_or(BARE_CR)?;
        let line = self.0[..end].strip_suffix(b"\r").ok_or(BARE_LF)?;
        if memchr(b'\r', line).is_some() {
            return Err(BARE_CR);
        }
        self.0 = &self.0[end + 1..];
        Ok(Some(line))
    }
}

/// `tchar` of RFC 9110, 5.6.2.
pub(crate) const fn is_token_char(byte: u8) -> bool {
    TOKEN[byte as usize]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

impl Refusal {
    /// The whole answer, after which the connection closes.
    pub(crate) fn to_response(self) -> bytes::BytesMut {
        let body = self.problem();
        let status = self.status;
        let reason = status.canonical_reason().unwrap_or("Error");
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\
             Connection: close\r\nX-Should-Retry: false\r\n\r\n",
            status.as_u16(),
            body.len(),
        );
        let mut bytes = bytes::BytesMut::from(head.as_bytes());
        bytes.extend_from_slice(body.as_bytes());
        bytes
    }

    /// As `application/problem+json` (RFC 9457).
    pub(crate) fn problem(self) -> String {
        serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "code": "bad_request",
            "detail": self.detail,
        })
        .to_string()
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
