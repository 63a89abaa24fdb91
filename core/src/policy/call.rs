//! A call as matching sees it: where it goes and what it does, in canonical spelling, before any rule has looked at it.

use super::host::{Host, HostError};
use super::path::CanonicalPath;

/// Headers by which a client asks a server to take another method than the one on the request line.
pub const METHOD_OVERRIDE_HEADERS: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// Where a call goes and by which method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallHead {
    host: Host,
    port: u16,
    wire_method: String,
    method: String,
    path: CanonicalPath,
    is_read: bool,
}

impl CallHead {
    /// Reads a call. `overridden` is the value of a [`METHOD_OVERRIDE_HEADERS`] header, `path` the request target's path (a
    /// query is left out), `port` the explicit one or the scheme's.
    ///
    /// A method override counts as the method, except where it would turn a write into a read: a far side that ignores the
    /// header would still write.
    pub fn new(method: &str, overridden: Option<&str>, host: &str, port: u16, path: &str) -> Result<Self, HostError> {
        let on_the_wire = method;
        let wire_method = method.to_ascii_uppercase();
        let overridden = overridden.map(|text| text.trim().to_ascii_uppercase()).filter(|text| !text.is_empty());
        let method = match overridden {
            Some(other) if !is_read_method(&other) || is_read_method(&wire_method) => other,
            _ => wire_method.clone(),
        };
        let is_read = is_read_method(&method) && is_read_method(on_the_wire);
        Ok(Self { host: Host::new(host)?, port, wire_method, method, path: CanonicalPath::new(path), is_read })
    }

    /// The host in its one spelling.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, explicit or the scheme's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The method that counts, in upper case.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path in its one spelling.
    pub fn path(&self) -> &CanonicalPath {
        &self.path
    }

    /// Whether the method that counts changes nothing by its definition (RFC 9110 9.2.1), as far as a proxy trusts it. Methods are
    /// case-sensitive (9.1): rules mean `get` as they mean `GET`, for the far side may, but nobody has defined it as safe.
    pub fn is_read(&self) -> bool {
        self.is_read
    }

    /// Whether a rule for these methods concerns the call; it does for the method on the wire as well as for the override.
    pub(super) fn concerns(&self, methods: &[String]) -> bool {
        methods.is_empty() || methods.contains(&self.method) || methods.contains(&self.wire_method)
    }

    /// Whether a rule that allows these methods covers the call, whichever of its two methods the far side obeys.
    pub(super) fn is_covered_by(&self, methods: &[String]) -> bool {
        methods.is_empty() || (methods.contains(&self.method) && methods.contains(&self.wire_method))
    }
}

fn is_read_method(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_override_counts_as_the_method_but_never_hides_a_write() {
        let check = |method: &str, overridden: Option<&str>, expect: &str| {
            assert_eq!(CallHead::new(method, overridden, "a.b", 443, "/").unwrap().method(), expect);
        };
        check("get", None, "GET");
        check("GET", Some("DELETE"), "DELETE");
        check("POST", Some("delete"), "DELETE");
        check("POST", Some("GET"), "POST");
        check("GET", Some("HEAD"), "HEAD");
        check("POST", Some(" "), "POST");
    }

    #[test]
    fn a_method_in_another_case_is_an_effect() {
        let check = |method: &str, overridden: Option<&str>, expect: bool| {
            assert_eq!(CallHead::new(method, overridden, "a.b", 443, "/").unwrap().is_read(), expect, "{method} {overridden:?}");
        };
        check("GET", None, true);
        check("get", None, false);
        check("Head", None, false);
        check("post", None, false);
        check("get", Some("HEAD"), false);
        check("GET", Some("head"), true);
        check("GET", Some("patch"), false);
    }

    #[test]
    fn a_rule_concerns_either_method_and_an_allowance_must_cover_both() {
        let call = CallHead::new("POST", Some("DELETE"), "a.b", 443, "/").unwrap();
        let list = |methods: &[&str]| methods.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>();
        assert!(call.concerns(&list(&["POST"])) && call.concerns(&list(&["DELETE"])));
        assert!(!call.concerns(&list(&["PUT"])));
        assert!(!call.is_covered_by(&list(&["DELETE"])));
        assert!(call.is_covered_by(&list(&["DELETE", "POST"])) && call.is_covered_by(&[]));
    }
}
