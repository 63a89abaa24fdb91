//! Control headers: read once, checked, taken off the request. A caller may tighten with them, never loosen.

use http::{HeaderMap, HeaderName};
use kybernis_core::ids::{RunId, SpanId};
use kybernis_core::key::{self, IdempotencyKey};
use kybernis_core::mutation::broken;
use kybernis_core::reason::{Code, Refusal};

/// What every control header's name begins with.
const PREFIX: &str = "x-kyb-";
/// Unknown control headers that a span remembers.
const UNKNOWN_NOTED: usize = 16;

/// What the caller asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Controls {
    /// `X-Kyb-Run-Id`.
    pub(crate) run: Option<RunId>,
    /// `X-Kyb-Parent-Span-Id`.
    pub(super) parent: Option<SpanId>,
    /// `X-Kyb-Tool`.
    pub(super) tool: Option<String>,
    /// `X-Kyb-Retry: 0`.
    pub(super) no_retries: bool,
    /// `X-Kyb-Idempotency-Key`, or `Idempotency-Key`.
    pub(crate) key: Option<IdempotencyKey>,
    /// Control headers that mean nothing here.
    pub(super) unknown: Vec<String>,
}

/// Reads the control headers and takes them off, those of a request too whose headers make no sense.
pub(crate) fn take(headers: &mut HeaderMap) -> Result<Controls, Refusal> {
    let names: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    let idempotency = HeaderName::from_static("idempotency-key");
    if names.is_empty() && !headers.contains_key(&idempotency) {
        return Ok(Controls::default());
    }
    let controls = read(headers, &names, &idempotency);
    for name in names {
        if !broken("control_headers_stay_here") {
            headers.remove(&name);
        }
    }
    controls
}

fn read(headers: &HeaderMap, names: &[HeaderName], idempotency: &HeaderName) -> Result<Controls, Refusal> {
    let ours = headers.get_all("x-kyb-idempotency-key").iter().map(http::HeaderValue::as_bytes);
    let ietf = headers.get_all(idempotency).iter().map(http::HeaderValue::as_bytes);
    let key = key::of_headers(ours, ietf).map_err(|error| Refusal::new(Code::IdempotencyKeyInvalid, format!("{error}.")))?;
    let mut controls = Controls { key, ..Controls::default() };
    for name in names.iter().filter(|name| name.as_str() != "x-kyb-idempotency-key") {
        controls.set(name.as_str(), single(headers, name)?)?;
    }
    Ok(controls)
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next().map(|value| value.to_str()), values.next()) {
        (Some(Ok(value)), None) => Ok(value.trim()),
        (Some(Err(_)), None) => Err(bad(name.as_str(), "has a character that is not visible ASCII")),
        (_, _) => Err(bad(name.as_str(), "is given more than once; give it once")),
    }
}

fn bad(name: &str, rule: impl std::fmt::Display) -> Refusal {
    let shown = name.split('-').map(capital).collect::<Vec<_>>().join("-");
    Refusal::new(Code::BadControlHeader, format!("{shown}: {rule}."))
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

impl Controls {
    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        match name {
            "x-kyb-run-id" => self.run = Some(RunId::new(value).map_err(|error| bad(name, error))?),
            "x-kyb-parent-span-id" => self.parent = Some(SpanId::new(value).map_err(|error| bad(name, error))?),
            "x-kyb-tool" if value.is_empty() => return Err(bad(name, "is empty; name a ToolRegistration or leave it out")),
            "x-kyb-tool" => self.tool = Some(value.to_owned()),
            "x-kyb-retry" => self.no_retries = !switch(name, value)?,
            // What these would switch off is not the caller's to switch off.
            "x-kyb-on" | "x-kyb-budget" => drop(switch(name, value)?),
            "x-kyb-ticket" => return Err(bad(name, "names no decision of this ledger; leave it out, and the call is decided as it comes")),
            other if self.unknown.len() < UNKNOWN_NOTED => self.unknown.push(other.to_owned()),
            _ => {}
        }
        Ok(())
    }
}

fn switch(name: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(bad(name, "is 1, 0, true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn control_headers_are_read_and_taken_off() {
        let mut map = headers(&[
            ("x-kyb-run-id", "run-7"),
            ("x-kyb-retry", "0"),
            ("x-kyb-on", "0"),
            ("x-kyb-idempotency-key", "k"),
            ("x-kyb-mood", "good"),
            ("accept", "*/*"),
        ]);
        let controls = take(&mut map).unwrap();
        assert_eq!(controls.run.unwrap().as_str(), "run-7");
        assert!(controls.no_retries);
        assert_eq!(controls.key.unwrap().expose(), "k");
        assert_eq!(controls.unknown, ["x-kyb-mood"]);
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn a_malformed_control_header_is_refused_by_name() {
        let check = |name: &'static str, value: &'static str, code: Code, expect: &str| {
            let refusal = take(&mut headers(&[(name, value)])).unwrap_err();
            assert_eq!(refusal.code, code, "{name}");
            assert!(refusal.detail.contains(expect), "{name}: {}", refusal.detail);
        };
        check("x-kyb-run-id", "", Code::BadControlHeader, "X-Kyb-Run-Id: run id is empty");
        check("x-kyb-run-id", "a b", Code::BadControlHeader, "' ' at position 1");
        check("x-kyb-retry", "twice", Code::BadControlHeader, "X-Kyb-Retry: is 1, 0, true or false");
        check("x-kyb-tool", "", Code::BadControlHeader, "X-Kyb-Tool: is empty");
        check("x-kyb-ticket", "t", Code::BadControlHeader, "X-Kyb-Ticket");
        check("x-kyb-idempotency-key", "", Code::IdempotencyKeyInvalid, "is empty");
        let mut twice = headers(&[("x-kyb-run-id", "a")]);
        twice.append("x-kyb-run-id", http::HeaderValue::from_static("b"));
        assert!(take(&mut twice).unwrap_err().detail.contains("more than once"));
        let mut disagree = headers(&[("x-kyb-idempotency-key", "a"), ("idempotency-key", "b")]);
        assert_eq!(take(&mut disagree).unwrap_err().code, Code::IdempotencyKeyInvalid);
    }
}
