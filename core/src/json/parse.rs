//! A parser that refuses what two parsers could read differently: duplicate names, lone surrogates, anything after the value.

use std::collections::HashSet;

use super::{Json, Number};

/// Deepest nesting: more is no request that anyone writes, and the parser recurses.
pub const DEPTH_MAX: usize = 128;

/// Where and why a document cannot be read in exactly one way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule} at byte {at}")]
pub struct JsonError {
    /// The rule that is broken, in words; for a duplicate name its pointer.
    pub rule: String,
    /// Byte offset from the document's start.
    pub at: usize,
    /// The document can be read in two ways, as with a member that occurs twice; else it is no JSON at all.
    pub ambiguous: bool,
}

pub(super) fn document(bytes: &[u8]) -> Result<Json, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError {
        rule: "the body is not UTF-8".to_owned(),
        at: error.valid_up_to(),
        ambiguous: false,
    })?;
    let mut parser = Parser { text, at: 0, path: Vec::new() };
    parser.space();
    let value = parser.value()?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.error("the document ends before this"));
    }
    Ok(value)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    path: Vec<String>,
}

impl Parser<'_> {
    fn error(&self, rule: impl Into<String>) -> JsonError {
        JsonError { rule: rule.into(), at: self.at, ambiguous: false }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &str) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.error(format!("expected {what}")))
        }
    }

    fn value(&mut self) -> Result<Json, JsonError> {
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Json::Number),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(_) | None => Err(self.error("expected a JSON value")),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, JsonError> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.error("expected a JSON value"))
        }
    }

    fn enter(&mut self, token: String) -> Result<(), JsonError> {
        if self.path.len() >= DEPTH_MAX {
            return Err(self.error(format!("nested deeper than {DEPTH_MAX}")));
        }
        self.path.push(token);
        Ok(())
    }

    fn object(&mut self) -> Result<Json, JsonError> {
        self.at += 1;
        let mut members: Vec<(String, Json)> = Vec::new();
        let mut names = HashSet::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a member name"));
            }
            let name = self.string()?;
            if !names.insert(name.clone()) {
                let pointer = self.path.iter().chain([&name]).map(|token| format!("/{token}")).collect::<String>();
                return Err(JsonError { rule: format!("the member {pointer} occurs twice"), at: start, ambiguous: true });
            }
            self.space();
            self.expect(b':', "`:` after the member name")?;
            self.space();
            self.enter(name.clone())?;
            let value = self.value()?;
            self.path.pop();
            members.push((name, value));
            self.space();
            if self.peek() == Some(b',') {
                self.at += 1;
            } else {
                self.expect(b'}', "`,` or `}`")?;
                return Ok(Json::Object(members));
            }
        }
    }

    fn array(&mut self) -> Result<Json, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(items));
        }
        loop {
            self.space();
            self.enter(items.len().to_string())?;
            items.push(self.value()?);
            self.path.pop();
            self.space();
            if self.peek() == Some(b',') {
                self.at += 1;
            } else {
                self.expect(b']', "`,` or `]`")?;
                return Ok(Json::Array(items));
            }
        }
    }

    /// RFC 8259, 6: no leading zeros, no bare point, no plus sign.
    fn number(&mut self) -> Result<Number, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Number::from_text(&self.text[start..self.at]))
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.error("expected a digit")) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let plain = self.text.as_bytes()[self.at..].iter().take_while(|b| !matches!(b, b'"' | b'\\' | 0..=0x1f)).count();
            out.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return Err(self.error("a control character in a string is written as an escape")),
                None => return Err(self.error("the string does not end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        self.at += 1;
        let found = self.peek();
        self.at += 1;
        Ok(match found {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            Some(_) | None => {
                self.at -= 1;
                return Err(self.error("no such escape"));
            }
        })
    }

    fn unicode(&mut self) -> Result<char, JsonError> {
        let high = self.hex4()?;
        let code = match high {
            0xd800..=0xdbff => {
                if !self.text[self.at..].starts_with("\\u") {
                    return Err(self.error("a lone surrogate"));
                }
                self.at += 2;
                let low = self.hex4()?;
                if !(0xdc00..=0xdfff).contains(&low) {
                    return Err(self.error("a lone surrogate"));
                }
                0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
            }
            other => other,
        };
        char::from_u32(code).ok_or_else(|| self.error("a lone surrogate"))
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else { return Err(self.error("`\\u` takes four hexadecimal digits")) };
        let code = digits.iter().fold(0, |code, digit| code * 16 + char::from(*digit).to_digit(16).unwrap_or_default());
        self.at += 4;
        Ok(code)
    }
}
