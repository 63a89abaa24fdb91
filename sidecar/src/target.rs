//! The one destination that a request is for: scheme, host and port, parsed once and in canonical form.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The longest host name (RFC 1035, without the root's dot).
const HOST_NAME_LIMIT: usize = 253;

/// Which of HTTP's two URI schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The port that an authority without one means.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A host: a name in lower case without the root's dot, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name.
    Name(Box<str>),
    /// An address literal.
    Ip(IpAddr),
}

/// What is wrong with an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// No host in it.
    #[error("the authority has no host")]
    NoHost,
    /// The host is neither a DNS name nor an address.
    #[error("the host is neither a DNS name nor an IP address")]
    BadHost,
    /// The port is not 1–65535.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
    /// `user:password@` has no place here.
    #[error("the authority carries user information")]
    UserInfo,
}

impl Host {
    /// Parses a host as it stands in an authority: `Example.COM.`, `10.0.0.1`, `[::1]`.
    ///
    /// # Errors
    /// When it is empty, or neither a name nor an address. An IPv4-mapped IPv6 address counts as the IPv4 one.
    pub fn parse(text: &str) -> Result<Self, BadAuthority> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(BadAuthority::BadHost)?;
            let v6: Ipv6Addr = inner.parse().map_err(|_| BadAuthority::BadHost)?;
            return Ok(Self::Ip(IpAddr::V6(v6).to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(BadAuthority::NoHost);
        }
        if let Ok(ip) = name.parse::<IpAddr>() {
            return match ip {
                IpAddr::V4(_) => Ok(Self::Ip(ip)),
                IpAddr::V6(_) => Err(BadAuthority::BadHost),
            };
        }
        let label_ok =
            |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if name.len() > HOST_NAME_LIMIT || !name.split('.').all(label_ok) {
            return Err(BadAuthority::BadHost);
        }
        // `0x7f.1` and `127.1` are addresses to some resolvers and names to others: refuse what could be either.
        let last = name.rsplit('.').next().unwrap_or(name);
        if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X") {
            return Err(BadAuthority::BadHost);
        }
        Ok(Self::Name(name.to_ascii_lowercase().into()))
    }

    /// The name, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// Host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host, canonical.
    pub host: Host,
    /// The port, explicit even where it is the scheme's default.
    pub port: u16,
}

impl Authority {
    /// Parses `host[:port]`; without a port, `default_port` is meant.
    ///
    /// # Errors
    /// See [`BadAuthority`].
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, BadAuthority> {
        if text.contains('@') {
            return Err(BadAuthority::UserInfo);
        }
        let (host, port) = match text.rfind(':') {
            Some(colon) if !text[colon..].contains(']') => (&text[..colon], Some(&text[colon + 1..])),
            _ => (text, None),
        };
        let port = match port {
            None | Some("") => default_port.ok_or(BadAuthority::BadPort)?,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or(BadAuthority::BadPort)?
            }
            Some(_) => return Err(BadAuthority::BadPort),
        };
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// As it stands in a `Host` header: without the port that `scheme` implies.
    pub fn to_host_header(&self, scheme: Scheme) -> String {
        if self.port == scheme.default_port() { self.host.to_string() } else { self.to_string() }
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip().to_canonical()), port: address.port() }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Which HTTP version the far side is spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// By ALPN over TLS; HTTP/1.1 in plain text.
    #[default]
    Negotiate,
    /// HTTP/1.1 only: an Upgrade needs it.
    Http1,
    /// HTTP/2 only: by ALPN over TLS, by prior knowledge in plain text.
    Http2,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// What the request's authority says; also the name that the far side's certificate must bear.
    pub authority: Authority,
    /// Connect here and nowhere else, where the agent's own connection named an address; else the name is resolved.
    pub address: Option<SocketAddr>,
    /// Which HTTP version.
    pub protocol: Protocol,
}

impl Target {
    /// A destination by name, in whichever HTTP version the far side prefers.
    pub const fn new(scheme: Scheme, authority: Authority) -> Self {
        Self { scheme, authority, address: None, protocol: Protocol::Negotiate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_canonical_or_refused() {
        let ok = |text: &str, expect: &str| {
            let parsed = Authority::parse(text, Some(443)).map(|a| a.to_string());
            assert_eq!(parsed.as_deref(), Ok(expect), "{text}");
        };
        ok("Pay.Example.COM.", "pay.example.com:443");
        ok("pay:8080", "pay:8080");
        ok("10.0.0.1", "10.0.0.1:443");
        ok("[::1]:9", "[::1]:9");
        ok("[::ffff:10.0.0.1]", "10.0.0.1:443");
        ok("x_y.local", "x_y.local:443");
        let bad = |text: &str, expect: BadAuthority| {
            assert_eq!(Authority::parse(text, Some(443)), Err(expect), "{text}");
        };
        bad("", BadAuthority::NoHost);
        bad(":80", BadAuthority::NoHost);
        bad("a@b", BadAuthority::UserInfo);
        bad("a:0", BadAuthority::BadPort);
        bad("a:65536", BadAuthority::BadPort);
        bad("a:8x", BadAuthority::BadPort);
        bad("a:+8", BadAuthority::BadPort);
        bad("::1", BadAuthority::BadHost);
        bad("a b", BadAuthority::BadHost);
        bad("127.1", BadAuthority::BadHost);
        bad("0X7f000001", BadAuthority::BadHost);
        bad("a..b", BadAuthority::BadHost);
        bad("[::1", BadAuthority::BadHost);
        assert_eq!(Authority::parse("a", None), Err(BadAuthority::BadPort));
    }
}
