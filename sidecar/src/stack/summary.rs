//! A request in one line for the people who approve it, built from the parsed request and never from the agent's own prose: what
//! the approval binds is shown, and what is not shown is counted, so that nobody believes to have seen it all.

use kybernis_core::json::{Json, Pointer};

use super::intake::Intake;

/// Longest name or value that is shown whole, in characters.
const TEXT_MAX: usize = 64;
/// What the members take together, in bytes. With the notes after them this stays below the wire's 2048 bytes for one line.
const MEMBERS_MAX: usize = 1024;
/// What the query takes of it: a long one does not push the body out.
const QUERY_MAX: usize = MEMBERS_MAX / 2;
/// Longest list of fields that the approval does not bind, in bytes. Their tool's own author wrote them.
const FREE_MAX: usize = 512;

/// `?dry_run=false qty=500 symbol=AAPL items[0].sku=x price=190.00`, and which fields the approval does not bind.
pub(super) fn of(intake: &Intake, query: Option<&str>, volatile: &[Pointer]) -> String {
    let mut asked = Words::new(QUERY_MAX);
    for member in query.unwrap_or_default().split('&').filter(|member| !member.is_empty()) {
        asked.push(query_member(member));
    }
    let mut said = Words::new(MEMBERS_MAX - asked.used);
    match &intake.json {
        Some(json) => Members { volatile, words: &mut said }.walk(json, &mut Vec::new(), ""),
        None if intake.bytes.is_empty() => said.push("no body".to_owned()),
        None => said.push(format!("{} bytes, {}", intake.bytes.len(), kybernis_core::key::fingerprint(&intake.bytes))),
    }
    let mut words = asked.told("members of the query");
    words.extend(said.told("members"));
    let mut free = Words::new(FREE_MAX);
    for pointer in volatile {
        free.push(format!("/{}", pointer.tokens().join("/")));
    }
    if !volatile.is_empty() {
        words.push(format!("(not bound: {})", free.told("fields").join(" ")));
    }
    words.join(" ")
}

/// Words up to a bound, and how many had no room.
struct Words {
    shown: Vec<String>,
    used: usize,
    most: usize,
    left: usize,
}

impl Words {
    const fn new(most: usize) -> Self {
        Self { shown: Vec::new(), used: 0, most, left: 0 }
    }

    /// After the first that has no room none is shown, so that what is shown has no gaps.
    fn push(&mut self, word: String) {
        let with = self.used + word.len() + 1;
        if self.left > 0 || with > self.most {
            self.left += 1;
        } else {
            self.used = with;
            self.shown.push(word);
        }
    }

    fn told(self, what: &str) -> Vec<String> {
        let mut shown = self.shown;
        if self.left > 0 {
            shown.push(format!("… and {} more {what}, see the request", self.left));
        }
        shown
    }
}

struct Members<'a> {
    volatile: &'a [Pointer],
    words: &'a mut Words,
}

impl Members<'_> {
    /// `path` as pointers have it, `shown` as people read it.
    fn walk(&mut self, json: &Json, path: &mut Vec<String>, shown: &str) {
        if self.volatile.iter().any(|pointer| pointer.tokens() == path.as_slice()) {
            return;
        }
        let name = if shown.is_empty() { "body" } else { shown };
        match json {
            Json::Object(inner) if !inner.is_empty() => {
                for (member, value) in inner {
                    let dot = if shown.is_empty() { "" } else { "." };
                    self.below(value, path, member.clone(), &format!("{shown}{dot}{}", quoted(member, is_name)));
                }
            }
            Json::Array(items) if !items.is_empty() => {
                for (at, value) in items.iter().enumerate() {
                    self.below(value, path, at.to_string(), &format!("{shown}[{at}]"));
                }
            }
            Json::Object(_) => self.words.push(format!("{name}={{}}")),
            Json::Array(_) => self.words.push(format!("{name}=[]")),
            Json::Null => self.words.push(format!("{name}=null")),
            Json::Bool(value) => self.words.push(format!("{name}={value}")),
            Json::Number(number) => self.words.push(format!("{name}={}", cut(number.canonical(), str::to_owned))),
            Json::String(text) => self.words.push(format!("{name}={}", quoted(text, is_value))),
        }
    }

    fn below(&mut self, value: &Json, path: &mut Vec<String>, token: String, shown: &str) {
        path.push(token);
        self.walk(value, path, shown);
        path.pop();
    }
}

/// `?name=value`, or `?name` where there is no value.
fn query_member(member: &str) -> String {
    match member.split_once('=') {
        Some((name, value)) => format!("?{}={}", quoted(&decoded(name), is_name), quoted(&decoded(value), is_value)),
        None => format!("?{}", quoted(&decoded(member), is_name)),
    }
}

/// Percent-decoded, but for what would then look like something else: `+`, which may mean a space, and `%` itself; and not at all
/// where the bytes are no UTF-8.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match escape(rest) {
            Some((byte, after)) if !matches!(byte, b'+' | b'%') => {
                bytes.push(byte);
                rest = after;
            }
            Some(_) | None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// The byte that an escape at the beginning stands for, and what follows.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let (escape, after) = text.split_at_checked(3)?;
    let digits = escape.strip_prefix(b"%").filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((byte, after))
}

/// A plain word stands bare; anything that could be taken for more than one name or value is quoted and escaped.
fn quoted(text: &str, plain: fn(char) -> bool) -> String {
    if !text.is_empty() && text.chars().all(plain) { cut(text, str::to_owned) } else { cut(text, |part| format!("{part:?}")) }
}

/// No dot and no bracket: those join names.
fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn is_value(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-+:/@".contains(c)
}

/// The beginning of a long text, and how long it is. The mark stands outside of the quotes, where the agent cannot write.
fn cut(text: &str, show: impl Fn(&str) -> String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        None => show(text),
        Some((end, _)) => format!("{}…({} characters)", show(&text[..end]), text.chars().count()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(body: &str, query: Option<&str>, volatile: &[&str]) -> String {
        let volatile: Vec<Pointer> = volatile.iter().map(|text| Pointer::parse(text).unwrap()).collect();
        of(&Intake::of_json(body), query, &volatile)
    }

    fn check(body: &str, volatile: &[&str], expect: &str) {
        assert_eq!(summary(body, None, volatile), expect);
    }

    #[test]
    fn a_summary_shows_the_parsed_members() {
        check(r#"{"qty":500,"symbol":"AAPL","price":190.50}"#, &[], "qty=500 symbol=AAPL price=190.5");
        check(r#"{"a":{"b":1,"c":{"d":2}},"l":[1,{"sku":"x"},[]],"o":{}}"#, &[], "a.b=1 a.c.d=2 l[0]=1 l[1].sku=x l[2]=[] o={}");
        check(r#"[{"a":true},null]"#, &[], "[0].a=true [1]=null");
        check("5", &[], "body=5");
        check(r#"{"a":1,"sent_at":"now"}"#, &["/sent_at"], "a=1 (not bound: /sent_at)");
        check(r#"{"a":[{"at":1,"b":2}]}"#, &["/a/0/at"], "a[0].b=2 (not bound: /a/0/at)");
    }

    #[test]
    fn an_agent_s_text_cannot_pose_as_another_member() {
        check(r#"{"note":"x qty=1 \u001b[2J\n"}"#, &[], r#"note="x qty=1 \u{1b}[2J\n""#);
        check(
            r#"{"qty=1 price=2 note":"x","a.b":1,"?c":2,"":3,"qty":1000000}"#,
            &[],
            r#""qty=1 price=2 note"=x "a.b"=1 "?c"=2 ""=3 qty=1000000"#,
        );
    }

    #[test]
    fn the_query_is_shown() {
        let check = |query: &str, expect: &str| assert_eq!(summary("", Some(query), &[]), format!("{expect} no body"));
        check("amount=1000000&to=bob", "?amount=1000000 ?to=bob");
        check("flag&&empty=", r#"?flag ?empty="""#);
        check("a=x%20%26y%3D1&b=%C3%A9t%C3%A9", r#"?a="x &y=1" ?b="été""#);
        // Not decoded: what would then read as another text.
        check("a=1+2&b=1%2B2&c=%2541&d=%ff&e=%zz", r#"?a=1+2 ?b="1%2B2" ?c="%2541" ?d="%ff" ?e="%zz""#);
        check("a%3D1%20b=2", r#"?"a=1 b"=2"#);
    }

    #[test]
    fn what_is_left_out_is_said() {
        let long = "x".repeat(1000);
        check(&format!(r#"{{"note":"{long}"}}"#), &[], &format!("note={}…(1000 characters)", "x".repeat(TEXT_MAX)));
        let many: Vec<String> = (0..400).map(|n| format!(r#""m{n}":{n}"#)).collect();
        let query: Vec<String> = (0..400).map(|n| format!("q{n}={n}")).collect();
        let body = format!("{{{},\"late\":1}}", many.join(","));
        let text = summary(&body, Some(&query.join("&")), &["/m0"]);
        let shown = |sign: &str| text.split(' ').filter(|word| word.starts_with(sign)).count();
        let (asked, said) = (shown("?q"), shown("m") - text.matches(" members").count() - text.matches(" more").count());
        assert!(asked > 40 && said > 40, "{text}");
        assert!(text.contains(&format!("… and {} more members of the query, see the request", 400 - asked)), "{text}");
        assert!(text.ends_with(&format!("… and {} more members, see the request (not bound: /m0)", 400 - said)), "{text}");
        assert!(text.len() < 2048, "the ledger would refuse it");
    }
}
