//! Refusals on their way to the caller: problem documents, and the same in gRPC.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use kybernis_core::reason::{Grpc, Refusal};
use prost::Message;

use crate::body::{self, ResponseBody};

/// The answer that carries `refusal`, in the manner of the request.
pub(crate) fn to_response(refusal: &Refusal, grpc: bool) -> Response<ResponseBody> {
    let mut response = if grpc { grpc_response(refusal) } else { problem(refusal) };
    for (name, value) in refusal.headers() {
        if name == "content-type" {
            continue;
        }
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// The same for a call whose attempts count.
pub(super) fn of_attempt(refusal: &Refusal, grpc: bool, attempt: u32) -> Response<ResponseBody> {
    let mut response = to_response(refusal, grpc);
    response.headers_mut().insert("x-kyb-attempt", attempt.into());
    response
}

fn problem(refusal: &Refusal) -> Response<ResponseBody> {
    // A problem is strings and integers: this cannot fail.
    let body = serde_json::to_vec(&refusal.problem()).unwrap_or_default();
    let mut response = Response::new(body::full(body));
    *response.status_mut() = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// Trailers-only (gRPC over HTTP/2, "Responses"), with `google.rpc.ErrorInfo` as detail.
fn grpc_response(refusal: &Refusal) -> Response<ResponseBody> {
    let code = number(refusal.code.grpc());
    let message = format!("{}: {}", refusal.code, refusal.detail);
    let info = ErrorInfo { reason: refusal.code.as_str().to_owned(), domain: "kybernis.io".to_owned() };
    let any = Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(), value: info.encode_to_vec() };
    let details = Status { code, message: message.clone(), details: vec![any] }.encode_to_vec();
    let mut response = Response::new(body::empty());
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(message) = HeaderValue::try_from(percent(&message)) {
        headers.insert("grpc-message", message);
    }
    if let Ok(details) = HeaderValue::try_from(STANDARD_NO_PAD.encode(details)) {
        headers.insert("grpc-status-details-bin", details);
    }
    response
}

const fn number(code: Grpc) -> i32 {
    match code {
        Grpc::InvalidArgument => 3,
        Grpc::DeadlineExceeded => 4,
        Grpc::NotFound => 5,
        Grpc::PermissionDenied => 7,
        Grpc::ResourceExhausted => 8,
        Grpc::FailedPrecondition => 9,
        Grpc::Aborted => 10,
        Grpc::Unavailable => 14,
        Grpc::Unauthenticated => 16,
    }
}

/// `grpc-message` is percent-encoded: everything but visible ASCII less the percent sign.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

#[cfg(test)]
mod tests {
    use kybernis_core::reason::Code;

    use super::*;

    #[test]
    fn a_refusal_in_grpc_carries_its_code_in_error_info() {
        let response = to_response(&Refusal::new(Code::EffectInDoubt, "look – there"), true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "9");
        assert_eq!(response.headers()["grpc-message"], "effect_in_doubt: look %E2%80%93 there");
        let details = STANDARD_NO_PAD.decode(response.headers()["grpc-status-details-bin"].as_bytes()).unwrap();
        let status = Status::decode(details.as_slice()).unwrap();
        assert_eq!(ErrorInfo::decode(status.details[0].value.as_slice()).unwrap().reason, "effect_in_doubt");
    }

    #[test]
    fn a_refusal_over_http_is_a_problem_document() {
        let response = to_response(&Refusal::new(Code::PolicyDenied, "no"), false);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["x-should-retry"], "false");
    }
}
