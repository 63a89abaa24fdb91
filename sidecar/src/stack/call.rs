//! One call of the agent's, parsed once: where it goes, what it does, in which run, and what its caller asked for.

use std::time::Instant;

use http::header::{CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, Method, Uri};
use kybernis_core::cel::RequestFacts;
use kybernis_core::ids::{RunId, SpanId};
use kybernis_core::key;
use kybernis_core::mutation::broken;
use kybernis_core::policy::{CallHead, METHOD_OVERRIDE_HEADERS};
use kybernis_core::reason::{Code, Refusal};
use kybernis_core::time::Timestamp;

use super::controls::Controls;
use crate::control::Identity;
use crate::target::Target;

/// A call's head.
#[derive(Debug)]
pub(super) struct Call {
    /// As it stands on the request line.
    pub(super) method: Method,
    /// The target as it came; path and query go out as they are.
    pub(super) uri: Uri,
    /// Control headers are taken off.
    pub(super) headers: HeaderMap,
    /// Where it is sent.
    pub(super) route: Target,
    /// As matching sees it.
    pub(super) head: CallHead,
    /// As keys and digests see it.
    pub(super) url: key::Target,
    /// What the caller asked for.
    pub(super) controls: Controls,
    /// Which run it belongs to.
    pub(super) run: RunId,
    /// The run was named by somebody.
    pub(super) explicit_run: bool,
    /// Its refusals are spoken in gRPC.
    pub(super) grpc: bool,
    /// It asks for an upgrade, and its method is one that does nothing by itself.
    pub(super) upgrade: bool,
    /// When it came, on two clocks.
    pub(super) began: (Timestamp, Instant),
}

impl Call {
    /// Reads the head of a request. The refusal of a head that makes no sense names what is wrong with it.
    pub(super) fn read(
        mut parts: http::request::Parts,
        route: Target,
        controls: Controls,
        identity: &Identity,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        // What the agent's `Connection` takes off is off before anything is judged, and before anything of ours is put on.
        crate::upstream::strip_agents_hop(&mut parts.headers);
        let bad = |problem: String| Refusal::new(Code::BadRequest, problem);
        let in_url = route.authority.host.to_string();
        let host = in_url.trim_matches(['[', ']']);
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let overridden = method_override(&parts.headers).map_err(bad)?.filter(|_| !broken("an_override_is_the_method"));
        let head = CallHead::new(parts.method.as_str(), overridden, host, route.authority.port, parts.uri.path())
            .map_err(|error| bad(format!("The destination's host: {error}.")))?;
        let url = key::Target::new(route.scheme.as_str(), &in_url, route.authority.port, path)
            .map_err(|error| bad(format!("The destination: {error}.")))?;
        let grpc = speaks_grpc(&parts.headers);
        let (run, explicit_run) = match &controls.run {
            // Sending back one's own run changes nothing.
            Some(run) if *run != identity.run || broken("one_s_own_run_changes_nothing") => (run.clone(), true),
            Some(_) | None => (identity.run.clone(), identity.explicit_run),
        };
        let upgrade = crate::upstream::wants_upgrade(&parts.headers) && (head.is_read() || broken("only_a_read_becomes_a_session"));
        let http::request::Parts { method, uri, headers, .. } = parts;
        Ok(Self { method, uri, headers, route, head, url, controls, run, explicit_run, grpc, upgrade, began: (now, Instant::now()) })
    }

    /// Whether the caller asks to change protocols, be it by a method that does something by itself.
    pub(super) fn offers_upgrade(&self) -> bool {
        crate::upstream::wants_upgrade(&self.headers)
    }

    /// Takes the offer off. Whoever makes one may be answered without it (RFC 9110, 7.8): an effect stays an effect.
    pub(super) fn decline_upgrade(&mut self) {
        self.headers.remove(UPGRADE);
    }

    /// Puts the call into the sidecar's own run: what it names is another agent's, and would not take its spans.
    pub(super) fn belongs_to(&mut self, identity: &Identity) {
        (self.run, self.explicit_run) = (identity.run.clone(), identity.explicit_run);
    }

    /// `METHOD host/path`, for people.
    pub(super) fn action(&self) -> String {
        let scheme = self.route.scheme;
        format!("{} {}{}", self.head.method(), self.route.authority.to_host_header(scheme), self.uri.path())
    }

    /// The headers as expressions see them.
    pub(super) fn header_pairs(&self) -> Vec<(String, String)> {
        pairs(&self.headers)
    }

    /// The request as expressions see it.
    pub(super) fn facts<'r>(&'r self, headers: &'r [(String, String)], body: Option<&'r kybernis_core::json::Json>) -> RequestFacts<'r> {
        RequestFacts {
            method: self.head.method(),
            scheme: self.url.scheme(),
            host: self.head.host().as_str(),
            port: self.url.port(),
            path: self.url.path(),
            query: self.url.query().unwrap_or_default(),
            headers,
            body,
        }
    }
}

/// The method that the override headers name, if any. A far side may obey any of them, so they must agree; behind CGI or WSGI an
/// underscore in a name makes the same variable as a hyphen does.
fn method_override(headers: &HeaderMap) -> Result<Option<&str>, String> {
    let mut found: Option<&str> = None;
    for (name, value) in headers {
        let spelt = name.as_str().replace('_', "-");
        if !METHOD_OVERRIDE_HEADERS.contains(&spelt.as_str()) {
            continue;
        }
        let value = value.to_str().map_err(|_| format!("{name}: has a character that is not visible ASCII."))?.trim();
        match found {
            Some(first) if !first.eq_ignore_ascii_case(value) => {
                return Err(format!("{name} says {value:?} where another override says {first:?}; name one method."));
            }
            Some(_) | None => found = Some(value),
        }
    }
    Ok(found)
}

/// A fresh span's name.
pub(super) fn new_span() -> Result<SpanId, Refusal> {
    let mut text = uuid::Uuid::encode_buffer();
    SpanId::new(uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text))
        .map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))
}

/// Header fields with readable values, names in lower case.
pub(super) fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        Some((name.as_str().to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
    };
    headers.iter().filter_map(pair).collect()
}

/// Whether a request is a gRPC call, by its content type.
pub(super) fn speaks_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_counts_with_underscores_too() {
        let check = |fields: &[(&'static str, &'static str)], expect: Result<Option<&str>, ()>| {
            let field =
                |(name, value): &(&'static str, &'static str)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
            let headers: HeaderMap = fields.iter().map(field).collect();
            assert_eq!(method_override(&headers).map_err(|_| ()), expect, "{fields:?}");
        };
        check(&[("x-http-method", "PUT")], Ok(Some("PUT")));
        check(&[("x_http_method_override", " DELETE ")], Ok(Some("DELETE")));
        check(&[("x-http_method-override", "DELETE"), ("x-method-override", "DELETE")], Ok(Some("DELETE")));
        check(&[("x_http_method_override", "DELETE"), ("x-http-method-override", "GET")], Err(()));
        check(&[("x-http-methods", "PUT")], Ok(None));
    }
}
