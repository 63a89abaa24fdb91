//! The ports that the redirection leaves alone.

use std::fmt;

/// Ports and ranges, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkipPorts(Vec<(u16, u16)>);

/// Why a text is no list of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SkipPortsError {
    #[error("has {0:?}, which is no port or range. Write ports from 1 to 65535 and ranges, as in 5432,9000-9010")]
    Item(String),
    #[error("has {0}, which ends before it begins. Write the smaller port first, as in 9000-9010")]
    Backwards(String),
}

impl SkipPorts {
    pub(crate) fn parse(text: &str) -> Result<Self, SkipPortsError> {
        let item = |item: &str| {
            let item = item.trim();
            let port = |text: &str| {
                // Rust's numbers take a sign, Kubernetes' ports do not.
                let digits = text.bytes().all(|b| b.is_ascii_digit());
                text.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or_else(|| SkipPortsError::Item(item.to_owned()))
            };
            let (from, to) = item.split_once('-').unwrap_or((item, item));
            let (from, to) = (port(from)?, port(to)?);
            if from <= to { Ok((from, to)) } else { Err(SkipPortsError::Backwards(item.to_owned())) }
        };
        text.split(',').map(item).collect::<Result<_, _>>().map(Self)
    }
}

/// As it is written, without blanks.
impl fmt::Display for SkipPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (from, to)) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            if from == to { write!(f, "{from}")? } else { write!(f, "{from}-{to}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_read_and_written() {
        for (text, expect) in [("5432", "5432"), ("5432, 9000-9010", "5432,9000-9010"), ("1-65535", "1-65535"), ("7-7", "7")] {
            assert_eq!(SkipPorts::parse(text).unwrap().to_string(), expect);
        }
    }

    #[test]
    fn what_is_no_port_is_named() {
        for (text, expect) in
            [("", ""), ("0", "0"), ("65536", "65536"), ("80,http", "http"), ("80,,81", ""), ("+80", "+80"), ("1-2-3", "1-2-3")]
        {
            assert_eq!(SkipPorts::parse(text), Err(SkipPortsError::Item(expect.to_owned())), "{text}");
        }
        assert_eq!(SkipPorts::parse("9010-9000"), Err(SkipPortsError::Backwards("9010-9000".to_owned())));
    }
}
