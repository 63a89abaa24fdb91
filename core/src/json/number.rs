//! Numbers by value: a double where that loses nothing, else an exact decimal.

/// A JSON number. Equal when the values are equal, however they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    canonical: String,
    exact_only: bool,
}

/// `digits × 10^exponent`, without leading or trailing zeros; zero is no digits.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Number {
    /// Takes a text that the parser has found to follow RFC 8259's grammar.
    pub(super) fn from_text(text: &str) -> Self {
        let exact = Decimal::read(text);
        let double: f64 = text.parse().unwrap_or(f64::NAN);
        let shortest = if double.is_finite() { Some(Decimal::read(&format!("{double:e}"))) } else { None };
        if shortest.is_some_and(|shortest| shortest.same_value(&exact)) {
            Self { canonical: exact.ecmascript(), exact_only: false }
        } else {
            let sign = if exact.negative { "-" } else { "" };
            Self { canonical: format!("{sign}{}e{}", exact.digits, exact.exponent), exact_only: true }
        }
    }

    /// Its canonical text.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The double, unless that would be another number than was written.
    pub fn as_f64(&self) -> Option<f64> {
        if self.exact_only { None } else { self.canonical.parse().ok() }
    }

    /// The integer, where the number is one that a double holds exactly.
    pub fn as_i64(&self) -> Option<i64> {
        let double = self.as_f64()?;
        let fits = double.fract() == 0.0 && double.abs() <= 9_007_199_254_740_992.0;
        if fits { self.canonical.parse().ok() } else { None }
    }
}

impl Decimal {
    fn read(text: &str) -> Self {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        // An exponent beyond an i64 is beyond any double and any decimal that anyone means; it saturates.
        let written: i64 = exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 });
        let all = format!("{whole}{fraction}");
        let trimmed = all.trim_start_matches('0');
        let digits = trimmed.trim_end_matches('0');
        let dropped = i64::try_from(trimmed.len() - digits.len()).unwrap_or(i64::MAX);
        let places = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
        if digits.is_empty() {
            return Self { negative: false, digits: String::new(), exponent: 0 };
        }
        Self { negative, digits: digits.to_owned(), exponent: written.saturating_sub(places).saturating_add(dropped) }
    }

    fn same_value(&self, other: &Self) -> bool {
        self == other
    }

    /// ECMA-262, Number::toString: what RFC 8785 prescribes for doubles.
    fn ecmascript(&self) -> String {
        let digits = self.digits.as_str();
        if digits.is_empty() {
            return "0".to_owned();
        }
        let k = i64::try_from(digits.len()).unwrap_or(i64::MAX);
        let n = self.exponent.saturating_add(k);
        let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or_default());
        let magnitude = if k <= n && n <= 21 {
            format!("{digits}{}", zeros(n - k))
        } else if 0 < n && n <= 21 {
            let (whole, fraction) = digits.split_at(usize::try_from(n).unwrap_or_default());
            format!("{whole}.{fraction}")
        } else if -6 < n && n <= 0 {
            format!("0.{}{digits}", zeros(-n))
        } else {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            let sign = if n > 0 { "+" } else { "-" };
            format!("{first}{point}{rest}e{sign}{}", (n - 1).unsigned_abs())
        };
        if self.negative { format!("-{magnitude}") } else { magnitude }
    }
}
