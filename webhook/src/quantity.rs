//! Kubernetes' quantities, exactly: `500m`, `1.5Gi`, `2e3`.
//!
//! The API server rewrites every quantity in its canonical form when it stores or passes on an object; whoever wants to find
//! later what they wrote must write that form themselves. Source: apimachinery's `resource.Quantity`.

use std::cmp::Ordering;
use std::fmt;

/// The smallest share that Kubernetes knows is a billionth.
const NANOS: i128 = 1_000_000_000;
/// Kubernetes cuts off what is larger; nobody means it.
const WHOLE_MAX: i128 = i64::MAX as i128;
/// More digits than this are no quantity: i64 has 19, and nine may follow the point.
const DIGITS_MAX: usize = 28;
/// The largest power of ten that a suffix or exponent may stand for.
const EXPONENT_MAX: u32 = 18;

/// Suffixes of powers of ten.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
/// Suffixes of powers of two, by how often 1024 is taken.
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuantityError {
    /// Not the notation.
    #[error("is not a quantity")]
    Malformed,
    /// Below zero.
    #[error("is below zero")]
    Negative,
    /// Finer than a billionth.
    #[error("is finer than a billionth")]
    TooFine,
    /// Beyond 2^63-1.
    #[error("is too large")]
    TooLarge,
}

/// In which family of suffixes a quantity is written.
#[derive(Clone, Copy, Debug)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// An amount of a resource that is not below zero. Two are equal when they are worth the same, however written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Reads Kubernetes' notation.
    ///
    /// # Errors
    /// When it is not the notation, or an amount that Kubernetes would have to round.
    pub(crate) fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Malformed);
        }
        let (scale, format) = scale(suffix)?;
        let nanos = nanos(whole.trim_start_matches('0'), fraction.trim_end_matches('0'), scale)?;
        match (negative, nanos) {
            (true, 1..) => Err(QuantityError::Negative),
            (_, nanos) if nanos > WHOLE_MAX * NANOS => Err(QuantityError::TooLarge),
            (_, nanos) => Ok(Self { nanos, format }),
        }
    }

    /// Both together, written as the first is: so does Kubernetes add. `None` beyond 2^63-1.
    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        let format = if self.nanos == 0 { other.format } else { self.format };
        let nanos = self.nanos + other.nanos;
        (nanos <= WHOLE_MAX * NANOS).then_some(Self { nanos, format })
    }

    pub(crate) const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number of `1 / parts`.
    pub(crate) const fn is_whole_in(self, parts: i128) -> bool {
        (self.nanos * parts) % NANOS == 0
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// What a number is multiplied with: a power of ten (nanos included), or of two.
enum Scale {
    Ten(i32),
    Two(u32),
}

fn scale(suffix: &str) -> Result<(Scale, Format), QuantityError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Scale::Ten(*power), Format::Decimal));
    }
    if let Some(times) = BINARY.iter().position(|name| *name == suffix) {
        let times = u32::try_from(times).map_err(|_| QuantityError::Malformed)?;
        return Ok((Scale::Two(times * 10), Format::Binary));
    }
    let power = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Malformed)?;
    let digits = power.strip_prefix(['+', '-']).unwrap_or(power);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Malformed);
    }
    let bound = if power.starts_with('-') { QuantityError::TooFine } else { QuantityError::TooLarge };
    let power: i32 = power.parse().map_err(|_| bound)?;
    Ok((Scale::Ten(power), Format::Exponent))
}

fn nanos(whole: &str, fraction: &str, scale: Scale) -> Result<i128, QuantityError> {
    if whole.is_empty() && fraction.is_empty() {
        return Ok(0);
    }
    if whole.len() > DIGITS_MAX {
        return Err(QuantityError::TooLarge);
    }
    if fraction.len() > DIGITS_MAX - whole.len() {
        return Err(QuantityError::TooFine);
    }
    let digits: i128 = format!("{whole}{fraction}").parse().map_err(|_| QuantityError::Malformed)?;
    let places = i32::try_from(fraction.len()).map_err(|_| QuantityError::TooFine)?;
    let (digits, power) = match scale {
        Scale::Ten(power) => (digits, power.saturating_add(9 - places)),
        Scale::Two(power) => (digits.checked_mul(1 << power).ok_or(QuantityError::TooLarge)?, 9 - places),
    };
    let by = power.unsigned_abs();
    if power >= 0 {
        if by > EXPONENT_MAX + 9 {
            return Err(QuantityError::TooLarge);
        }
        return digits.checked_mul(10_i128.pow(by)).ok_or(QuantityError::TooLarge);
    }
    // 28 digits cannot be a whole multiple of more.
    let divisor = 10_i128.checked_pow(by).ok_or(QuantityError::TooFine)?;
    if digits % divisor == 0 { Ok(digits / divisor) } else { Err(QuantityError::TooFine) }
}

/// The canonical form: the largest suffix that leaves a whole number.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let is_binary = matches!(self.format, Format::Binary) && self.nanos >= 1024 * NANOS && self.nanos % NANOS == 0;
        if is_binary {
            let (mut whole, mut times) = (self.nanos / NANOS, 0);
            while whole % 1024 == 0 && times + 1 < BINARY.len() {
                (whole, times) = (whole / 1024, times + 1);
            }
            return write!(f, "{whole}{}", BINARY[times]);
        }
        let (mut number, mut power) = (self.nanos, -9_i32);
        while number % 1000 == 0 && power < 18 {
            (number, power) = (number / 1000, power + 3);
        }
        match self.format {
            Format::Exponent if power == 0 => write!(f, "{number}"),
            Format::Exponent => write!(f, "{number}e{power}"),
            Format::Decimal | Format::Binary => {
                let suffix = DECIMAL.iter().find(|(_, of)| *of == power).map_or("", |(name, _)| name);
                write!(f, "{number}{suffix}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_is_the_api_servers() {
        for (text, expect) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1500", "1500"),
            ("1000", "1k"),
            ("10", "10"),
            ("0.5Gi", "512Mi"),
            ("1024Mi", "1Gi"),
            ("1536Ki", "1536Ki"),
            ("1.5Ki", "1536"),
            ("1000Ki", "1000Ki"),
            ("1023", "1023"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("128M", "128M"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("100e1", "1e3"),
            ("5e0", "5"),
            ("5e-1", "500e-3"),
            ("1E", "1E"),
            ("7Ei", "7Ei"),
            ("1n", "1n"),
            ("9223372036854775807", "9223372036854775807"),
            ("0.000000001", "1n"),
        ] {
            let quantity = Quantity::parse(text).unwrap_or_else(|e| panic!("{text} {e}"));
            assert_eq!(quantity.to_string(), expect, "{text}");
            assert_eq!(Quantity::parse(expect).unwrap(), quantity, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_says_why() {
        for (text, expect) in [
            ("", QuantityError::Malformed),
            (".", QuantityError::Malformed),
            ("m", QuantityError::Malformed),
            ("1 Gi", QuantityError::Malformed),
            ("1GB", QuantityError::Malformed),
            ("1gi", QuantityError::Malformed),
            ("1.2.3", QuantityError::Malformed),
            ("--1", QuantityError::Malformed),
            ("1e", QuantityError::Malformed),
            ("1e1.5", QuantityError::Malformed),
            ("1e--1", QuantityError::Malformed),
            ("1\u{0661}", QuantityError::Malformed),
            ("-1m", QuantityError::Negative),
            ("0.1n", QuantityError::TooFine),
            ("1e-10", QuantityError::TooFine),
            ("1e-999999999999", QuantityError::TooFine),
            ("9223372036854775808", QuantityError::TooLarge),
            ("8Ei", QuantityError::TooLarge),
            ("10E", QuantityError::TooLarge),
            ("1e99", QuantityError::TooLarge),
            ("1e999999999999", QuantityError::TooLarge),
            ("99999999999999999999999999999999999999999999", QuantityError::TooLarge),
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()), Err(expect), "{text}");
        }
    }

    #[test]
    fn sums_are_exact_and_written_as_the_first() {
        for (a, b, expect) in [
            ("500m", "0.5", Some("1")),
            ("1Gi", "64Mi", Some("1088Mi")),
            ("1G", "64Mi", Some("1067108864")),
            ("0", "64Mi", Some("64Mi")),
            ("1", "1n", Some("1000000001n")),
            ("9223372036854775807", "1", None),
        ] {
            let sum = Quantity::parse(a).unwrap().plus(Quantity::parse(b).unwrap());
            assert_eq!(sum.map(|q| q.to_string()).as_deref(), expect, "{a} + {b}");
        }
    }
}
