//! Host names as policy compares them: one spelling for each host, so that a rule for `169.254.169.254` also meets
//! `0xA9FEA9FE`, and one for `pay.example.com` also meets `PAY.example.com.`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Longest host name that DNS allows (RFC 1035 2.3.4), in its textual form.
pub const HOST_MAX: usize = 253;
/// Longest label that DNS allows (RFC 1035 2.3.4).
const LABEL_MAX: usize = 63;

/// Why a text is no host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing was given.
    #[error("the host is empty. Name a host, or leave `hosts` out")]
    Empty,
    /// A scheme, a path or a user was given along.
    #[error(
        "{found:?} is not a host: {character:?} does not belong to one. Write only the name and, if needed, a port, as in api.example.com:8443"
    )]
    Character {
        /// The text.
        found: String,
        /// The first character that no host has.
        character: char,
    },
    /// Letters outside ASCII.
    #[error("{found:?} is not ASCII. Write the name as DNS sees it, in its xn-- form")]
    NotAscii {
        /// The text.
        found: String,
    },
    /// A label that DNS would refuse.
    #[error("{found:?} has a label that is empty, longer than {LABEL_MAX} characters, or begins or ends with a hyphen. Correct the name")]
    Label {
        /// The text.
        found: String,
    },
    /// Longer than DNS allows.
    #[error("the host has {len} characters; DNS allows {HOST_MAX}. Correct the name")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// A wildcard anywhere but as the whole first label.
    #[error("{found:?} has a wildcard that is not a whole first label. Write *.example.com, or leave `hosts` out for every host")]
    Wildcard {
        /// The text.
        found: String,
    },
    /// Not 1–65535.
    #[error("{found:?} has a port that is not a number from 1 to 65535. Correct the port")]
    Port {
        /// The text.
        found: String,
    },
}

/// A host name or address in its one canonical spelling: lower case, no trailing dot, addresses in their standard form,
/// IPv6 without brackets, IPv4 written as a number or mapped into IPv6 as dotted IPv4.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

impl Host {
    /// Reads a host as it stands in a URL or a `Host` header, without a port.
    pub fn new(text: &str) -> Result<Self, HostError> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        if bare.is_empty() {
            return Err(HostError::Empty);
        }
        if let Some(address) = address(bare) {
            return Ok(Self(address.to_string()));
        }
        if bare.len() > HOST_MAX {
            return Err(HostError::TooLong { len: bare.len() });
        }
        if !bare.is_ascii() {
            return Err(HostError::NotAscii { found: text.to_owned() });
        }
        // The underscore is no host name by RFC 952, but service names carry it and resolvers take it.
        if let Some(character) = bare.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))) {
            return Err(HostError::Character { found: text.to_owned(), character });
        }
        let sound = |label: &str| !label.is_empty() && label.len() <= LABEL_MAX && !label.starts_with('-') && !label.ends_with('-');
        if !bare.split('.').all(sound) {
            return Err(HostError::Label { found: text.to_owned() });
        }
        Ok(Self(bare.to_ascii_lowercase()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Host {
    type Error = HostError;
    fn try_from(text: String) -> Result<Self, HostError> {
        Self::new(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0
    }
}

/// Which hosts a pattern means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    /// This one.
    Exact(Host),
    /// Every name below this one, at any depth, but not this one itself.
    Below(Host),
}

/// A host in a manifest: `broker.example.com`, `*.example.com`, `10.0.0.7`, `[::1]`, each with an optional `:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    pub(super) name: Name,
    pub(super) port: Option<u16>,
}

impl HostPattern {
    /// Reads the pattern; without a port it means every port.
    pub fn new(text: &str) -> Result<Self, HostError> {
        let (name, port) = split_port(text)?;
        let name = match name.strip_prefix("*.") {
            Some(rest) if rest.contains('*') => return Err(HostError::Wildcard { found: text.to_owned() }),
            Some(rest) => match Host::new(rest)? {
                // Nothing is below an address.
                host if host.0.parse::<IpAddr>().is_ok() => return Err(HostError::Wildcard { found: text.to_owned() }),
                host => Name::Below(host),
            },
            None if name.contains('*') => return Err(HostError::Wildcard { found: text.to_owned() }),
            None => Name::Exact(Host::new(name)?),
        };
        Ok(Self { name, port })
    }

    /// Whether the pattern means this host at this port.
    pub fn matches(&self, host: &Host, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.matches_at_some_port(host)
    }

    /// Whether the pattern means this host at any port.
    pub(super) fn matches_at_some_port(&self, host: &Host) -> bool {
        match &self.name {
            Name::Exact(own) => own == host,
            Name::Below(own) => host.0.strip_suffix(own.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.')),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Exact(host) if host.as_str().contains(':') => write!(f, "[{host}]")?,
            Name::Exact(host) => write!(f, "{host}")?,
            Name::Below(host) => write!(f, "*.{host}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostError;
    fn try_from(text: String) -> Result<Self, HostError> {
        Self::new(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

/// Splits `name:port`, leaving a bare IPv6 address whole.
fn split_port(text: &str) -> Result<(&str, Option<u16>), HostError> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    let after_bracket = text.rfind(']').map_or(0, |at| at + 1);
    match text[after_bracket..].find(':') {
        None => Ok((text, None)),
        Some(at) => {
            let (name, port) = text.split_at(after_bracket + at);
            let digits = &port[1..];
            // `https://host` would otherwise be told that its port is wrong, which helps nobody.
            if digits.starts_with("//") {
                return Err(HostError::Character { found: text.to_owned(), character: '/' });
            }
            let port = digits.parse::<u16>().ok().filter(|port| *port > 0 && !digits.starts_with('+'));
            port.map(|port| (name, Some(port))).ok_or_else(|| HostError::Port { found: text.to_owned() })
        }
    }
}

/// Reads an address in every spelling that a resolver would take, and folds IPv4 mapped into IPv6 back to IPv4.
fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(v6) = inner.parse::<Ipv6Addr>() {
        return Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4));
    }
    numeric_ipv4(text).map(IpAddr::V4)
}

/// The forms that `inet_aton` reads: one to four parts, each decimal, octal (`0…`) or hexadecimal (`0x…`), the last one
/// filling what remains (WHATWG URL, "IPv4 parser").
fn numeric_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = Vec::with_capacity(4);
    for part in text.split('.') {
        if parts.len() == 4 {
            return None;
        }
        parts.push(numeric_part(part)?);
    }
    let last = parts.pop()?;
    if parts.iter().any(|part| *part > 255) {
        return None;
    }
    let free_bytes = 4 - parts.len();
    if last >= 256_u64.pow(u32::try_from(free_bytes).ok()?) {
        return None;
    }
    let front = parts.iter().enumerate().fold(0, |sum, (at, part)| sum + (part << (24 - 8 * at)));
    u32::try_from(front + last).ok().map(Ipv4Addr::from)
}

fn numeric_part(part: &str) -> Option<u64> {
    let (digits, radix) = match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some("") => return Some(0),
        Some(hex) => (hex, 16),
        None if part.len() > 1 && part.starts_with('0') => (&part[1..], 8),
        None => (part, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        let check = |text: &str, expect: &str| assert_eq!(Host::new(text).unwrap().as_str(), expect, "{text}");
        check("Broker.Example.COM.", "broker.example.com");
        check("0xA9FEA9FE", "169.254.169.254");
        check("2852039166", "169.254.169.254");
        check("169.254.43518", "169.254.169.254");
        check("0251.0376.0251.0376", "169.254.169.254");
        check("[::ffff:169.254.169.254]", "169.254.169.254");
        check("[0:0:0::1]", "::1");
        check("256.1.1.1.1", "256.1.1.1.1");
        check("_grpc.pay.svc", "_grpc.pay.svc");
    }

    #[test]
    fn a_pattern_means_its_hosts_and_no_others() {
        let check = |pattern: &str, host: &str, port: u16, expect: bool| {
            let pattern = HostPattern::new(pattern).unwrap();
            assert_eq!(pattern.matches(&Host::new(host).unwrap(), port), expect, "{pattern} {host}:{port}");
        };
        check("broker.example.com", "BROKER.example.com", 443, true);
        check("broker.example.com", "broker.example.com", 8443, true);
        check("broker.example.com:8443", "broker.example.com", 443, false);
        check("broker.example.com:8443", "broker.example.com", 8443, true);
        check("*.example.com", "a.example.com", 443, true);
        check("*.example.com", "a.b.example.com", 443, true);
        check("*.example.com", "example.com", 443, false);
        check("*.example.com", "evilexample.com", 443, false);
        check("*.example.com:80", "a.example.com", 443, false);
        check("[::1]:80", "::1", 80, true);
        check("::1", "::1", 80, true);
        check("169.254.169.254", "0xa9fea9fe", 80, true);
    }

    #[test]
    fn a_bad_pattern_says_what_is_wrong() {
        let check = |text: &str, expect: &str| assert_eq!(HostPattern::new(text).unwrap_err().to_string(), expect);
        check("", "the host is empty. Name a host, or leave `hosts` out");
        check(
            "https://a.b",
            "\"https://a.b\" is not a host: '/' does not belong to one. Write only the name and, if needed, a port, as in api.example.com:8443",
        );
        check("*", "\"*\" has a wildcard that is not a whole first label. Write *.example.com, or leave `hosts` out for every host");
        check(
            "a.*.b",
            "\"a.*.b\" has a wildcard that is not a whole first label. Write *.example.com, or leave `hosts` out for every host",
        );
        check("*.9.", "\"*.9.\" has a wildcard that is not a whole first label. Write *.example.com, or leave `hosts` out for every host");
        check("a.b:0", "\"a.b:0\" has a port that is not a number from 1 to 65535. Correct the port");
        check("a.b:99999", "\"a.b:99999\" has a port that is not a number from 1 to 65535. Correct the port");
        check("bücher.de", "\"bücher.de\" is not ASCII. Write the name as DNS sees it, in its xn-- form");
        check("a..b", "\"a..b\" has a label that is empty, longer than 63 characters, or begins or ends with a hyphen. Correct the name");
    }

    #[test]
    fn a_pattern_is_written_as_it_is_read() {
        for text in ["a.b", "*.a.b", "a.b:1", "[::1]", "[::1]:443", "10.0.0.1:5"] {
            assert_eq!(HostPattern::new(text).unwrap().to_string(), text);
        }
    }
}
