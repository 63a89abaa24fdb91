//! Header values that we read ourselves: control headers and keys, credentials, `Retry-After`, gRPC's status and framing,
//! what `Connection` names; and texts of ours that must be fit for a header.

use http::{HeaderMap, HeaderName, HeaderValue};
use kybernis_core::ids::Principal;
use kybernis_core::key::{HINT_MAX, TenantSecret, principal};
use kybernis_core::reason::{Code, Refusal};
use kybernis_sidecar::fuzz;

use crate::input::{choice, headers, some_texts};

/// Longest key, as the contract has it.
const KEY_MAX: usize = 255;

/// `c` control headers, `p` credentials, `r` Retry-After, `s` gRPC status, `h` hop-by-hop: a header block each. `g` gRPC
/// frames. `t` a refusal's detail.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    match kind {
        b'c' => controls(headers(rest)),
        b'p' => credentials(headers(rest)),
        b'r' => retry_after(&headers(rest)),
        b's' => grpc_status(&headers(rest)),
        b'h' => hop_by_hop(headers(rest)),
        b'g' => grpc_frames(rest),
        b't' => refusal(some_texts(rest)),
        _ => {}
    }
}

fn controls(mut headers: HeaderMap) {
    match fuzz::controls(&mut headers) {
        Ok((run, key)) => {
            assert!(!headers.keys().any(|name| name.as_str().starts_with("x-kyb-")), "a control header went on");
            assert!(run.is_none_or(|run| (1..=kybernis_core::ids::NAME_MAX).contains(&run.as_str().len())));
            let Some(key) = key else { return };
            assert!((1..=KEY_MAX).contains(&key.expose().len()));
            assert!(key.hint().len() <= HINT_MAX && key.expose().starts_with(&key.hint()));
            let shown = format!("{key:?}");
            assert!(key.expose().len() <= HINT_MAX || !shown.contains(key.expose()), "a key is shown");
        }
        Err(refused) => {
            assert!(matches!(refused.code, Code::BadControlHeader | Code::IdempotencyKeyInvalid), "{refused:?}");
            fit_for_headers(&refused);
        }
    }
}

fn credentials(mut headers: HeaderMap) {
    let before = principal_of(&headers);
    headers.insert("x-unrelated", HeaderValue::from_static("1"));
    assert_eq!(before, principal_of(&headers), "a principal hangs on what is no credential");
}

fn principal_of(headers: &HeaderMap) -> Principal {
    principal(&TenantSecret::new([7; 32]), headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

fn retry_after(headers: &HeaderMap) {
    let wait = fuzz::retry_after(headers);
    let Some(text) = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()) else {
        assert_eq!(wait, None);
        return;
    };
    if let (true, Ok(seconds)) = (digits(text), text.parse::<u64>()) {
        assert_eq!(wait.map(|wait| wait.get()), Some(seconds.saturating_mul(1000)));
    }
}

fn grpc_status(headers: &HeaderMap) {
    let word = fuzz::grpc_word(headers);
    let Some(value) = headers.get("grpc-status") else {
        assert_eq!(word, None);
        return;
    };
    let sound = value.to_str().is_ok_and(digits);
    assert!(sound || word.as_deref() == Some("InDoubt"), "{value:?} is no status, and was read as {word:?}");
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn hop_by_hop(mut headers: HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(http::header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    fuzz::strip_hop_by_hop(&mut headers);
    let connection = ["connection", "proxy-connection", "keep-alive", "te", "transfer-encoding", "upgrade", "proxy-authorization"];
    assert!(!named.iter().any(|name| headers.contains_key(name)), "what Connection names crosses the hop");
    assert!(!connection.iter().any(|name| headers.contains_key(*name)), "what belongs to a connection crosses the hop");
}

fn grpc_frames(bytes: &[u8]) {
    let whole = fuzz::has_message(bytes);
    for end in 0..bytes.len().min(64) {
        assert!(whole || !fuzz::has_message(&bytes[..end]), "a message that had come is gone");
    }
}

fn refusal([code, detail]: [&str; 2]) {
    let refusal = Refusal::new(Code::parse(code).unwrap_or(Code::BadRequest), detail);
    fit_for_headers(&refusal);
    let problem = serde_json::to_vec(&refusal.problem()).expect("a problem is a document");
    kybernis_core::json::Json::parse(&problem).expect("a problem can be read in one way");
}

fn fit_for_headers(refusal: &Refusal) {
    for (name, value) in refusal.headers() {
        assert!(HeaderValue::from_str(&value).is_ok(), "{name}: {value:?}");
    }
}
