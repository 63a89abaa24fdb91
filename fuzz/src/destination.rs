//! Where a call goes: hosts, authorities, paths, absolute forms and `Location`, each in one spelling that is its own.

use http::Uri;
use kybernis_core::key;
use kybernis_core::policy::{self, CallHead, CanonicalPath, HostPattern, PathKind, PathPattern};
use kybernis_sidecar::fuzz::location;
use kybernis_sidecar::target::{Authority, Host, Scheme, Target};

use crate::input::{choice, some_texts};

/// `h` host, `a` authority, `p` path, `g` path pattern, `u` method, override and absolute form, `l` where from and Location.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    let [first, second, third] = some_texts(rest);
    match kind {
        b'h' => host(first),
        b'a' => authority(first),
        b'p' => path(first),
        b'g' => path_pattern(first),
        b'u' => absolute_form(first, second, third),
        b'l' => redirect(first, second),
        _ => {}
    }
}

fn host(text: &str) {
    if let Ok(host) = policy::Host::new(text) {
        assert_eq!(policy::Host::new(host.as_str()), Ok(host), "a host's spelling is not its own");
    }
    if let Ok(pattern) = HostPattern::new(text) {
        assert_eq!(HostPattern::new(&pattern.to_string()), Ok(pattern), "a pattern is not read as it is written");
    }
    if let Ok(host) = Host::parse(text) {
        assert_eq!(Host::parse(&host.to_string()), Ok(host.clone()), "a host's spelling is not its own");
        both_mean_the_same(&host);
    }
}

/// What policy compares is what the upstream client connects to.
fn both_mean_the_same(host: &Host) {
    let as_policy_reads = |text: &str| policy::Host::new(text).ok().map(|host| host.as_str().to_owned());
    match host {
        Host::Name(name) => assert!(as_policy_reads(name).is_none_or(|read| *read == **name), "{name} is another host to policy"),
        Host::Ip(ip) => assert_eq!(as_policy_reads(&ip.to_string()), Some(ip.to_string())),
    }
}

fn authority(text: &str) {
    for default_port in [None, Some(443)] {
        let Ok(authority) = Authority::parse(text, default_port) else { continue };
        assert_ne!(authority.port, 0);
        assert_eq!(Authority::parse(&authority.to_string(), None).as_ref(), Ok(&authority));
        for scheme in [Scheme::Http, Scheme::Https] {
            let header = authority.to_host_header(scheme);
            assert_eq!(Authority::parse(&header, Some(scheme.default_port())).as_ref(), Ok(&authority));
        }
        both_mean_the_same(&authority.host);
    }
}

fn path(text: &str) {
    let canonical = CanonicalPath::new(text);
    assert!(canonical.as_str().starts_with('/'));
    assert_eq!(CanonicalPath::new(canonical.as_str()), canonical, "a path's spelling is not its own");
    assert!(!canonical.as_str().split('/').any(|segment| matches!(segment, "." | "..")), "a dot segment is left");
    if let Ok(target) = key::Target::new("https", "a.example", 443, text) {
        let again = match target.query() {
            Some(query) => format!("{}?{query}", target.path()),
            None => target.path().to_owned(),
        };
        assert_eq!(key::Target::new("https", "a.example", 443, &again), Ok(target.clone()), "a target's form is not its own");
        // No request target has a fragment (RFC 9112, 3.2): `http::Uri` leaves it out. Policies fold empty segments before
        // they resolve dots, keys follow RFC 3986 and keep them.
        let comparable = !text.contains('#') && !text.contains("//");
        assert!(!comparable || CanonicalPath::new(target.path()) == canonical, "two readings of a path: {target}, {canonical}");
    }
}

fn path_pattern(text: &str) {
    for kind in [PathKind::Exact, PathKind::Prefix, PathKind::Template] {
        let Ok(pattern) = PathPattern::new(kind, text) else { continue };
        let written = serde_json::to_vec(&pattern).expect("a pattern is text");
        let again: PathPattern = serde_json::from_slice(&written).expect("a pattern is read as it is written");
        assert_eq!(again, pattern, "a pattern means another path once it has been written");
        assert!(kind == PathKind::Template || pattern.matches(&CanonicalPath::new(text)), "a pattern does not match its own path");
    }
}

fn absolute_form(method: &str, overridden: &str, target: &str) {
    let Ok(uri) = target.parse::<Uri>() else { return };
    let Some(named) = uri.authority() else { return };
    let port = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    let Ok(authority) = Authority::parse(named.as_str(), Some(port)) else { return };
    both_mean_the_same(&authority.host);
    let host = authority.host.to_string();
    let Ok(head) = CallHead::new(method, Some(overridden), host.trim_matches(['[', ']']), authority.port, uri.path()) else { return };
    let without = CallHead::new(method, None, head.host().as_str(), authority.port, uri.path()).expect("the host is one already");
    assert!(without.is_read() || !head.is_read(), "an override hides a write");
}

fn redirect(from: &str, to: &str) {
    let Ok(uri) = from.parse::<Uri>() else { return };
    let scheme = if uri.scheme_str() == Some("http") { Scheme::Http } else { Scheme::Https };
    let authority = uri.authority().and_then(|named| Authority::parse(named.as_str(), Some(scheme.default_port())).ok());
    let Some(authority) = authority else { return };
    let route = Target::new(scheme, authority);
    let Some((next_scheme, next, next_uri)) = location(&route, &uri, to) else { return };
    assert!(scheme == Scheme::Http || next_scheme == Scheme::Https, "what left over TLS goes on in the open");
    assert!(next_uri.authority().is_none() && next_uri.path().starts_with('/'), "{next_uri} is no origin form");
    assert_eq!(Authority::parse(&next.to_string(), None), Ok(next));
}
