//! A request in one line for the people who approve it, built from the parsed body and never from the agent's own prose.

use kybernis_core::json::{Json, Pointer};

use super::intake::Intake;

/// Longest value that is shown, in characters.
const VALUE_MAX: usize = 64;
/// Longest summary, in characters.
const SUMMARY_MAX: usize = 512;
/// How deep members are shown as `a.b=…`.
const DEPTH: usize = 2;

/// `qty=500 symbol=AAPL side=buy price=190.00`, and which fields the approval does not bind.
pub(super) fn of(intake: &Intake, volatile: &[Pointer]) -> String {
    let mut words = Vec::new();
    match &intake.json {
        Some(json) => members(json, &mut Vec::new(), volatile, &mut words),
        None if intake.bytes.is_empty() => words.push("no body".to_owned()),
        None => words.push(format!("{} bytes, {}", intake.bytes.len(), kybernis_core::key::fingerprint(&intake.bytes))),
    }
    let free: Vec<String> = volatile.iter().map(|pointer| format!("/{}", pointer.tokens().join("/"))).collect();
    if !free.is_empty() {
        words.push(format!("(not bound: {})", free.join(" ")));
    }
    shortened(&words.join(" "), SUMMARY_MAX)
}

fn members(json: &Json, path: &mut Vec<String>, volatile: &[Pointer], words: &mut Vec<String>) {
    if volatile.iter().any(|pointer| pointer.tokens() == path.as_slice()) {
        return;
    }
    match json {
        Json::Object(inner) if path.len() < DEPTH => {
            for (name, value) in inner {
                path.push(name.clone());
                members(value, path, volatile, words);
                path.pop();
            }
        }
        Json::Object(inner) => words.push(format!("{}={{{} members}}", shown(path), inner.len())),
        Json::Array(items) => words.push(format!("{}=[{} items]", shown(path), items.len())),
        Json::Null => words.push(format!("{}=null", shown(path))),
        Json::Bool(value) => words.push(format!("{}={value}", shown(path))),
        Json::Number(number) => words.push(format!("{}={}", shown(path), number.canonical())),
        Json::String(text) => words.push(format!("{}={}", shown(path), quoted(text))),
    }
}

fn shown(path: &[String]) -> String {
    if path.is_empty() { "body".to_owned() } else { shortened(&path.join("."), VALUE_MAX) }
}

/// A plain word stands bare; anything that could be taken for more than one value is quoted and escaped.
fn quoted(text: &str) -> String {
    let text = shortened(text, VALUE_MAX);
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-+:/@".contains(c));
    if plain { text } else { format!("{text:?}") }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, volatile: &[&str], expect: &str) {
        let volatile: Vec<Pointer> = volatile.iter().map(|text| Pointer::parse(text).unwrap()).collect();
        assert_eq!(of(&Intake::of_json(body), &volatile), expect);
    }

    #[test]
    fn a_summary_shows_the_parsed_members() {
        check(r#"{"qty":500,"symbol":"AAPL","price":190.50}"#, &[], "qty=500 symbol=AAPL price=190.5");
        check(r#"{"a":{"b":1,"c":{"d":2}},"l":[1,2]}"#, &[], "a.b=1 a.c={1 members} l=[2 items]");
        check(r#"{"a":1,"sent_at":"now"}"#, &["/sent_at"], "a=1 (not bound: /sent_at)");
    }

    #[test]
    fn an_agent_s_text_cannot_pose_as_another_member() {
        check(r#"{"note":"x qty=1 \u001b[2J\n"}"#, &[], r#"note="x qty=1 \u{1b}[2J\n""#);
    }
}
