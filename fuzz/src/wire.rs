//! First bytes of a connection, ClientHellos and HTTP/2 frame headers: a verdict on part of the bytes never contradicts the
//! one on all of them.

use std::io::Cursor;

use kybernis_sidecar::fuzz::{LOOK_AHEAD, frames, speech};
use kybernis_sidecar::target::Host;
use rustls::server::Acceptor;

use crate::input::{choice, cut};

/// Every shorter beginning up to here is judged, too.
const BEGINNINGS: usize = 96;

/// `s` first bytes; `t` ClientHello, `f` frames: lengths of the pieces, 0xff, bytes.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    if kind == b's' {
        return first_bytes(&rest[..rest.len().min(LOOK_AHEAD)]);
    }
    let mut halves = rest.splitn(2, |byte| *byte == 0xff);
    let (Some(sizes), Some(bytes)) = (halves.next(), halves.next()) else { return };
    match kind {
        b't' => client_hello(bytes, sizes),
        b'f' => assert_eq!(frames(cut(bytes, sizes).into_iter()), frames(std::iter::once(bytes))),
        _ => {}
    }
}

fn first_bytes(bytes: &[u8]) {
    for inside in [true, false] {
        let whole = speech(bytes, inside);
        for end in 0..bytes.len().min(BEGINNINGS) {
            let early = speech(&bytes[..end], inside);
            assert!(early.is_none() || early == whole, "after {end} bytes {early:?}, in the end {whole:?}");
        }
    }
}

fn client_hello(bytes: &[u8], sizes: &[u8]) {
    let whole = server_name(&[bytes]);
    assert_eq!(server_name(&cut(bytes, sizes)), whole, "the server name hangs on how the ClientHello is cut");
    if let Some(Some(Ok(host))) = whole.map(|name| name.map(|name| Host::parse(&name))) {
        assert_eq!(Host::parse(&host.to_string()), Ok(host));
    }
}

/// The name in a whole ClientHello, as the listener reads it; `None` where it is none, or not whole.
fn server_name(pieces: &[&[u8]]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    for piece in pieces {
        let mut fresh = Cursor::new(piece);
        while (fresh.position() as usize) < piece.len() {
            acceptor.read_tls(&mut fresh).ok()?;
            if let Some(accepted) = acceptor.accept().ok()? {
                return Some(accepted.client_hello().server_name().map(str::to_owned));
            }
        }
    }
    None
}
