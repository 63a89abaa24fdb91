//! The small values that manifests are made of, checked where they are read: durations, methods, header names, JSON pointers.

mod headers;

use std::borrow::Cow;
use std::fmt;

pub use headers::{KeyHeader, ProbeHeader};
use kybernis_core::time::Millis;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Longest duration: ten years; beyond it somebody has mistaken the unit.
const DURATION_MAX_MS: u64 = 10 * 365 * 24 * 3_600_000;
/// Most digits after the point: an hour's smallest whole share of milliseconds needs seven.
const FRACTION_MAX: u32 = 9;
/// Longest header name or method; longer ones are no names.
const TOKEN_MAX: usize = 128;
/// Longest JSON pointer.
const POINTER_MAX: usize = 1024;

/// Why a value cannot stand there. Each says the rule, then what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// No Go duration.
    #[error("{0:?} is not a duration. Write numbers with the units h, m, s or ms, as in 30s or 1h30m")]
    Duration(String),
    /// Finer than a millisecond.
    #[error("{0:?} is finer than a millisecond. Use whole milliseconds")]
    DurationTooFine(String),
    /// Beyond [`DURATION_MAX_MS`].
    #[error("{0:?} is longer than ten years. Check the unit")]
    DurationTooLong(String),
    /// No method.
    #[error("{0:?} is not a method. Write it in upper case, as in POST")]
    Method(String),
    /// No header name.
    #[error("{0:?} is not a header name. Use letters, digits and hyphens, as in Idempotency-Key")]
    FieldName(String),
    /// A header that is not the registration's to set.
    #[error(
        "{0:?} is no header for the far side's key: it frames the request, proves who sends it, or is ours. Name the far side's own header, as in Idempotency-Key"
    )]
    KeyHeader(String),
    /// A header that no probe may carry.
    #[error("{0:?} is no header for a probe: it frames the request, is for one hop, or is ours. Remove it")]
    ProbeHeader(String),
    /// No sum of money.
    #[error("{0:?} is not a sum of money. Write a decimal number with up to six places, in quotes, as in \"20.00\"")]
    Money(String),
    /// No currency.
    #[error("{0:?} is not a currency. Write its three letters, as in USD")]
    Currency(String),
    /// No JSON pointer.
    #[error("{0:?} is not a JSON pointer. Begin with / and write ~0 for ~ and ~1 for /, as in /sent_at")]
    Pointer(String),
}

/// A length of time in Go's notation: `30s`, `1h30m`, `250ms`, `1.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GoDuration(Millis);

impl GoDuration {
    /// Reads the notation of Go's `time.ParseDuration`, without signs.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        if text == "0" {
            return Ok(Self(Millis::new(0)));
        }
        let malformed = || ValueError::Duration(text.to_owned());
        let (mut rest, mut total) = (text, 0_u64);
        if rest.is_empty() {
            return Err(malformed());
        }
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(malformed)?;
            let (number, after) = rest.split_at(number_end);
            let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let unit_ms = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1000,
                "ms" => 1,
                "us" | "µs" | "μs" | "ns" => return Err(ValueError::DurationTooFine(text.to_owned())),
                _ => return Err(malformed()),
            };
            total = total.saturating_add(part_ms(text, number, unit_ms)?);
            rest = after;
        }
        if total > DURATION_MAX_MS {
            return Err(ValueError::DurationTooLong(text.to_owned()));
        }
        Ok(Self(Millis::new(total)))
    }

    /// The length.
    pub fn get(self) -> Millis {
        self.0
    }
}

/// One number with its unit, in milliseconds; a fraction must come out whole.
fn part_ms(text: &str, number: &str, unit_ms: u64) -> Result<u64, ValueError> {
    let malformed = || ValueError::Duration(text.to_owned());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(malformed());
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    let whole: u64 = whole.parse().map_err(|_| ValueError::DurationTooLong(text.to_owned()))?;
    let too_fine = || ValueError::DurationTooFine(text.to_owned());
    let fraction = fraction.trim_end_matches('0');
    let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= FRACTION_MAX).ok_or_else(too_fine)?;
    let parts = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().map_err(|_| malformed())? };
    let scale = 10_u64.pow(places);
    if !(parts * unit_ms).is_multiple_of(scale) {
        return Err(too_fine());
    }
    Ok(whole.saturating_mul(unit_ms).saturating_add(parts * unit_ms / scale))
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.get();
        if ms == 0 {
            return f.write_str("0s");
        }
        for (unit, unit_ms, cycle) in [("h", 3_600_000, u64::MAX), ("m", 60_000, 60), ("s", 1000, 60), ("ms", 1, 1000)] {
            let count = ms / unit_ms % cycle;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// A request method in upper case (RFC 9110 9.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

impl Method {
    /// Checks a method.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        let sound = is_token(text) && !text.bytes().any(|b| b.is_ascii_lowercase());
        if sound { Ok(Self(text.to_owned())) } else { Err(ValueError::Method(text.to_owned())) }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A header's name in lower case (RFC 9110 5.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(String);

impl FieldName {
    /// Checks a header's name.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        if is_token(text) { Ok(Self(text.to_ascii_lowercase())) } else { Err(ValueError::FieldName(text.to_owned())) }
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A JSON pointer (RFC 6901) to a member; the whole document is not one, for nothing would be left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pointer(String);

impl Pointer {
    /// Checks a pointer.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        let escapes = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        let sound = text.starts_with('/') && escapes && text.len() <= POINTER_MAX;
        if sound { Ok(Self(text.to_owned())) } else { Err(ValueError::Pointer(text.to_owned())) }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A sum of money, to the micro.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Money(String);

impl Money {
    /// Checks a sum.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        let (whole, places) = text.split_once('.').map_or((text, None), |(whole, places)| (whole, Some(places)));
        let digits = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let sound = digits(whole, 12) && places.is_none_or(|places| digits(places, 6));
        if sound { Ok(Self(text.to_owned())) } else { Err(ValueError::Money(text.to_owned())) }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A currency's code (ISO 4217).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency(String);

impl Currency {
    /// Checks a code's form.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        let sound = text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase());
        if sound { Ok(Self(text.to_owned())) } else { Err(ValueError::Currency(text.to_owned())) }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 9110 5.6.2.
fn is_token(text: &str) -> bool {
    let tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.len() <= TOKEN_MAX && text.bytes().all(tchar)
}

macro_rules! text_values {
    ($($name:ident: $says:literal, $rules:tt;)*) => {$(
        impl TryFrom<String> for $name {
            type Error = ValueError;
            fn try_from(text: String) -> Result<Self, ValueError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = json_schema!($rules);
                schema.insert("type".to_owned(), "string".into());
                schema.insert("description".to_owned(), $says.into());
                schema
            }
        }
    )*};
}

pub(crate) use text_values;

text_values! {
    // A pattern's refusal shows the pattern; a rule's says what to write.
    GoDuration: "A length of time in Go's notation, as in 30s or 1h30m.", {"maxLength": 64, "x-kubernetes-validations": [{
        "rule": r"self.matches(r'^(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(h|m|s|ms)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(h|m|s|ms))*)$')",
        "message": "is not a duration. Write numbers with the units h, m, s or ms, as in 30s or 1h30m",
    }]};
    Method: "A request method in upper case.", {"pattern": r"^[!#$%&'*+.^_`|~0-9A-Z-]+$", "maxLength": 1024};
    FieldName: "The name of a header.", {"pattern": r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", "maxLength": 1024};
    Pointer: "A JSON pointer (RFC 6901), as in /sent_at.", {"pattern": r"^(/([^~]|~[01])*)$", "maxLength": 1024};
    Money: "A sum of money, a decimal number in quotes, as in \"20.00\".", {"pattern": r"^[0-9]{1,12}(\.[0-9]{1,6})?$", "maxLength": 1024};
    Currency: "A currency's code (ISO 4217), as in USD.", {"pattern": "^[A-Z]{3}$", "maxLength": 1024};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let check = |text: &str, expect: u64| assert_eq!(GoDuration::new(text).unwrap().get().get(), expect, "{text}");
        check("30s", 30_000);
        check("1h30m", 5_400_000);
        check("250ms", 250);
        check("1.5h", 5_400_000);
        check("0.05s", 50);
        check(".5s", 500);
        check("1.s", 1000);
        check("0", 0);
        check("0s", 0);
        check("72h", 259_200_000);
    }

    #[test]
    fn what_is_no_duration_says_why() {
        let check = |text: &str, expect: &str| assert_eq!(GoDuration::new(text).unwrap_err().to_string(), expect);
        let advice = "is not a duration. Write numbers with the units h, m, s or ms, as in 30s or 1h30m";
        for text in ["", "30", "s", "-1s", "1d", "1h 30m", "1..5s", ".s"] {
            check(text, &format!("{text:?} {advice}"));
        }
        check("1us", "\"1us\" is finer than a millisecond. Use whole milliseconds");
        check("0.0005s", "\"0.0005s\" is finer than a millisecond. Use whole milliseconds");
        check("99999999999999999999h", "\"99999999999999999999h\" is longer than ten years. Check the unit");
        check("87601h", "\"87601h\" is longer than ten years. Check the unit");
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["30s", "1h30m", "250ms", "72h", "0s", "1h1m1s1ms"] {
            assert_eq!(GoDuration::new(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn money_is_a_decimal_number_and_a_currency_three_letters() {
        for text in ["0", "20.00", "0.000001", "999999999999"] {
            assert_eq!(Money::new(text).unwrap().to_string(), text);
        }
        for text in ["", "-1", "1.", ".5", "1.0000001", "1e3", "1 000", "1000000000000"] {
            assert_eq!(Money::new(text), Err(ValueError::Money(text.to_owned())));
        }
        assert!(Currency::new("USD").is_ok() && Currency::new("usd").is_err() && Currency::new("EURO").is_err());
    }

    #[test]
    fn methods_names_and_pointers_are_checked() {
        assert!(Method::new("POST").is_ok() && Method::new("post").is_err() && Method::new("").is_err());
        assert_eq!(FieldName::new("Idempotency-Key").unwrap().to_string(), "idempotency-key");
        assert!(FieldName::new("a b").is_err() && FieldName::new("a\r\nb").is_err());
        assert!(Pointer::new("/a~0b~1c/0").is_ok());
        for text in ["", "sent_at", "/a~2", "/a~"] {
            assert_eq!(
                Pointer::new(text).unwrap_err().to_string(),
                format!("{text:?} is not a JSON pointer. Begin with / and write ~0 for ~ and ~1 for /, as in /sent_at"),
            );
        }
    }
}
