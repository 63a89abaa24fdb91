//! How the targets read their inputs.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Runtime;

/// Parts the fields of an input: a byte that no UTF-8 text holds.
const SEPARATOR: u8 = 0xff;

/// The first byte, and the rest.
pub(crate) fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// The fields of an input.
pub(crate) fn fields(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == SEPARATOR)
}

/// The fields of an input that are text.
pub(crate) fn texts(data: &[u8]) -> impl Iterator<Item = &str> {
    fields(data).map(|field| std::str::from_utf8(field).unwrap_or_default())
}

/// The first `N` fields that are text; empty ones where there are fewer.
pub(crate) fn some_texts<const N: usize>(data: &[u8]) -> [&str; N] {
    let mut texts = texts(data);
    std::array::from_fn(|_| texts.next().unwrap_or_default())
}

/// `name: value` on each line; what is no header is left out.
pub(crate) fn headers(block: &[u8]) -> HeaderMap {
    let lines = block.split(|byte| *byte == b'\n');
    let pairs = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        Some((HeaderName::from_bytes(line.get(..colon)?).ok()?, HeaderValue::from_bytes(value).ok()?))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, value);
    }
    headers
}

/// `bytes` in pieces whose lengths `sizes` gives, over and over, each at least one byte.
pub(crate) fn cut<'b>(bytes: &'b [u8], sizes: &[u8]) -> Vec<&'b [u8]> {
    let mut sizes = sizes.iter().cycle();
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |size| usize::from(*size).max(1)).min(rest.len());
        let (piece, tail) = rest.split_at(size);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

/// Where asynchronous parsers run.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts"));
    &RUNTIME
}
