//! A declared probe: rendered while the call's facts are at hand, before dispatch, because the question may be asked long
//! after the call and by another sidecar.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::ToolError;
use super::model::{Probe, SecretRef};
use crate::cel::{Expression, Facts, Profile};

/// Longest rendered URL in bytes; servers commonly stop at 8 KiB.
pub const PROBE_URL_MAX: usize = 8 * 1024;

/// A probe with its URL's expression compiled.
#[derive(Debug)]
pub struct CompiledProbe {
    pub(super) tool: String,
    pub(super) url: Arc<Expression>,
    pub(super) probe: Probe,
}

/// The request to send and how to read its answer; serialised, it is what Decide carries sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedProbe {
    /// Absolute, `http` or `https`.
    pub url: String,
    /// In upper case.
    pub method: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// What is to be sent as Authorization, looked up when the probe is sent.
    pub secret_ref: Option<SecretRef>,
    executed_when: Option<String>,
    not_executed_when: Option<String>,
}

/// What a probe's answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeWord {
    /// It was done.
    Executed,
    /// It was not done.
    NotExecuted,
    /// Neither, both, or an expression that erred: nothing changes.
    Unsure,
}

impl CompiledProbe {
    /// The manifest's words: delays, horizon, method.
    pub fn declared(&self) -> &Probe {
        &self.probe
    }

    pub(super) fn url_expression(&self) -> &Expression {
        &self.url
    }

    /// Renders the request over the call's facts.
    pub fn render(&self, facts: &Facts) -> Result<RenderedProbe, ToolError> {
        let error = |problem: String| ToolError { tool: self.tool.clone(), field: "effect.probe.url", problem };
        let url = self.url.eval_string(facts).map_err(|problem| error(problem.to_string()))?;
        let url = escaped(&url);
        if url.len() > PROBE_URL_MAX {
            return Err(error(format!("the URL has {} bytes; at most {PROBE_URL_MAX} are allowed", url.len())));
        }
        if !is_absolute(&url) {
            return Err(error("the URL is not absolute with http or https, or names a user".to_owned()));
        }
        Ok(RenderedProbe {
            url,
            method: self.probe.method.clone(),
            headers: self.probe.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            secret_ref: self.probe.secret_ref.clone(),
            executed_when: self.probe.executed_when.clone(),
            not_executed_when: self.probe.not_executed_when.clone(),
        })
    }
}

impl RenderedProbe {
    /// Reads the answer, which the facts hold as `response`.
    pub fn read(&self, facts: &Facts) -> ProbeWord {
        // An expression that errs has not been asked properly, so the other one's word does not count either.
        let says = |source: &Option<String>| match source {
            None => Some(false),
            Some(source) => Expression::compile(source, Profile::Probe).ok()?.eval_bool(facts).ok(),
        };
        match (says(&self.executed_when), says(&self.not_executed_when)) {
            (Some(true), Some(false)) => ProbeWord::Executed,
            (Some(false), Some(true)) => ProbeWord::NotExecuted,
            (Some(_), Some(_)) | (None, _) | (_, None) => ProbeWord::Unsure,
        }
    }
}

/// Escapes what no URL may hold (RFC 3986 2), so that a body's text cannot break the request line.
fn escaped(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    for byte in url.bytes() {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn is_absolute(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    authority.is_some_and(|authority| !authority.is_empty() && !authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_cannot_break_the_request_line() {
        assert_eq!(escaped("https://a.b/x y\r\nz{é}?q=1&r=%20#f"), "https://a.b/x%20y%0D%0Az%7B%C3%A9%7D?q=1&r=%20#f");
    }

    #[test]
    fn a_probe_needs_an_absolute_url_without_a_user() {
        let check = |url: &str, expect: bool| assert_eq!(is_absolute(url), expect, "{url}");
        check("https://a.b", true);
        check("http://a.b:80/x?user@host", true);
        check("https://user@a.b/", false);
        check("https:///x", false);
        check("/v1/orders", false);
        check("ftp://a.b/", false);
    }
}
