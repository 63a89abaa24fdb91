//! What is rebuilt when a request goes out: the URI's form, `Host`, the framing headers; and what never crosses a hop.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body::Body as _;

use super::failure::NotSent;
use crate::body::SendBody;
use crate::target::Target;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Whether the sender asks to change protocols: `Connection` must say so too (RFC 9110, 7.8).
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
}

/// Removes what belongs to one hop only, including what `Connection` names (RFC 9110, 7.6.1).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|option| option.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in
        [CONNECTION, PROXY_CONNECTION, KEEP_ALIVE, TE, TRANSFER_ENCODING, UPGRADE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, HTTP2_SETTINGS]
    {
        headers.remove(name);
    }
}

/// The same for a request that has only now come in: whatever is added to it afterwards is then nobody's to name in `Connection`.
/// An upgrade that is wanted and `TE: trailers` stay, for the way out makes its own of them.
pub(crate) fn strip_agents_hop(headers: &mut HeaderMap) {
    let upgrade = headers.get(UPGRADE).filter(|_| wants_upgrade(headers)).cloned();
    let trailers = wants_trailers(headers);
    strip_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

pub(super) fn clean_answer(headers: &mut HeaderMap, upgraded: bool) {
    let upgrade = headers.get(UPGRADE).filter(|_| upgraded).cloned();
    strip_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Origin-form and `Host`; the framing follows from the body.
pub(super) fn for_http1(mut request: Request<SendBody>, target: &Target) -> Result<Request<SendBody>, NotSent> {
    *request.uri_mut() = Uri::from(path_of(request.uri()));
    *request.version_mut() = Version::HTTP_11;
    let host = target.authority.to_host_header(target.scheme);
    let host = HeaderValue::try_from(host).map_err(|_| NotSent::Unsendable)?;
    let upgrade = request.headers().get(UPGRADE).cloned();
    let upgrade = upgrade.filter(|_| wants_upgrade(request.headers()));
    let size = framing_size(&request);
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    headers.remove(EXPECT);
    headers.insert(HOST, host);
    headers.remove(CONTENT_LENGTH);
    match size {
        Framing::None => {}
        Framing::Length(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Framing::Chunked => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    Ok(request)
}

/// Absolute URI, from which h2 makes the pseudo-headers.
pub(super) fn for_http2(mut request: Request<SendBody>, target: &Target) -> Result<Request<SendBody>, NotSent> {
    *request.uri_mut() = Uri::builder()
        .scheme(target.scheme.as_str())
        .authority(target.authority.to_host_header(target.scheme))
        .path_and_query(path_of(request.uri()))
        .build()
        .map_err(|_| NotSent::Unsendable)?;
    *request.version_mut() = Version::HTTP_2;
    let trailers = wants_trailers(request.headers());
    let size = framing_size(&request);
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    headers.remove(EXPECT);
    headers.remove(HOST);
    headers.remove(CONTENT_LENGTH);
    if let Framing::Length(length) = size {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

enum Framing {
    None,
    Length(u64),
    Chunked,
}

fn framing_size(request: &Request<SendBody>) -> Framing {
    let body = request.body();
    let anticipated = || [Method::POST, Method::PUT, Method::PATCH].contains(request.method()) && !request.headers().contains_key(UPGRADE);
    match body.size_hint().exact() {
        Some(0) if anticipated() => Framing::Length(0),
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None if body.is_end_stream() => Framing::None,
        None => Framing::Chunked,
    }
}

fn path_of(uri: &Uri) -> PathAndQuery {
    uri.path_and_query().filter(|path| !path.as_str().is_empty()).cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Authority, Scheme};

    fn target() -> Target {
        let authority = Authority::parse("pay.example:8443", None);
        Target::new(Scheme::Https, authority.unwrap_or_else(|e| unreachable!("{e}")))
    }

    #[test]
    fn what_connection_names_does_not_cross_the_hop() -> Result<(), http::Error> {
        let request = Request::post("http://elsewhere/a?b=c")
            .header("Connection", "X-Mine, keep-alive")
            .header("X-Mine", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Authorization", "Basic eA==")
            .header("Host", "other")
            .header("Content-Length", "999")
            .header("Expect", "100-continue")
            .header("X-Kept", "1")
            .body(SendBody::whole("hi"))?;
        let sent = for_http1(request, &target()).unwrap_or_else(|e| unreachable!("{e}"));
        let mut names: Vec<&str> = sent.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "host", "x-kept"]);
        assert_eq!(sent.headers()["host"], "pay.example:8443");
        assert_eq!(sent.headers()["content-length"], "2");
        assert_eq!(sent.uri(), "/a?b=c");
        Ok(())
    }

    #[test]
    fn what_connection_names_is_gone_before_anything_is_added() -> Result<(), http::Error> {
        let check = |pairs: &[(&'static str, &'static str)], expect: &[(&str, &str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
            let mut headers: HeaderMap = pairs.iter().map(pair).collect();
            strip_agents_hop(&mut headers);
            assert_eq!(headers.len(), expect.len(), "{headers:?}");
            assert!(expect.iter().all(|(name, value)| headers[*name] == *value), "{headers:?}");
            headers
        };
        let kept = [("x-kept", "1")];
        let mut headers = check(&[("connection", "x-far-key, close"), ("x-far-key", "mine"), ("x-kept", "1")], &kept);
        headers.insert("x-far-key", HeaderValue::from_static("ours"));
        let mut request = Request::post("/").body(SendBody::empty())?;
        *request.headers_mut() = headers;
        let sent = for_http1(request, &target()).unwrap_or_else(|e| unreachable!("{e}"));
        assert_eq!(sent.headers()["x-far-key"], "ours");

        let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
        check(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("keep-alive", "timeout=5")], &upgrade);
        check(&[("connection", "close"), ("upgrade", "h2c")], &[]);
        check(&[("te", "trailers"), ("connection", "te")], &[("te", "trailers")]);
        check(&[("te", "gzip")], &[]);
        Ok(())
    }

    #[test]
    fn an_upgrade_keeps_its_two_headers_and_only_those() -> Result<(), http::Error> {
        let request =
            Request::get("/chat").header("Connection", "keep-alive, Upgrade").header("Upgrade", "websocket").body(SendBody::empty())?;
        let sent = for_http1(request, &target()).unwrap_or_else(|e| unreachable!("{e}"));
        assert_eq!(sent.headers()["upgrade"], "websocket");
        assert_eq!(sent.headers()["connection"], "upgrade");
        assert!(!sent.headers().contains_key("content-length"));
        Ok(())
    }
}
