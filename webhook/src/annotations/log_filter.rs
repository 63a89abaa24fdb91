//! What the sidecar logs, as `tracing` filters are written. Only `LEVEL` and `TARGET=LEVEL` are taken: a bare target would
//! be one too, and then every misspelt level were a target.

/// The levels, from silence to everything.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Longest filter; longer ones are no longer read by people.
const LENGTH_MAX: usize = 1024;

/// A checked filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFilter(String);

/// Why a text is no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no log level. Write off, error, warn, info, debug, trace, or a filter as in kybernis_sidecar=debug,info")]
pub(crate) struct LogFilterError;

impl LogFilter {
    pub(crate) fn parse(text: &str) -> Result<Self, LogFilterError> {
        let is_level = |text: &str| LEVELS.contains(&text);
        let is_target = |text: &str| {
            let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            text.split("::").all(part)
        };
        let directive = |directive: &str| match directive.trim().split_once('=') {
            None => is_level(directive.trim()),
            Some((target, level)) => is_target(target) && is_level(level),
        };
        let sound = text.len() <= LENGTH_MAX && text.split(',').all(directive);
        if sound { Ok(Self(text.to_owned())) } else { Err(LogFilterError) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_told_from_what_is_neither() {
        for (text, expect) in [
            ("info", true),
            ("off", true),
            ("kybernis_sidecar=debug,info", true),
            ("kybernis_sidecar::stack=trace, h2=off, warn", true),
            ("", false),
            ("inf", false),
            ("INFO", false),
            ("info,", false),
            ("a=b=debug", false),
            ("=debug", false),
            ("a:b=debug", false),
            ("[span]=debug", false),
            ("$(HOME)=debug", false),
        ] {
            assert_eq!(LogFilter::parse(text).is_ok(), expect, "{text}");
        }
    }
}
