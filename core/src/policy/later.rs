//! Names that expressions will see in later releases. Until something fills them they are refused, never left to err on calls.

/// Variables, and members of variables, that nothing fills yet.
const NOT_YET: [(&str, Option<&str>); 2] = [("cost", None), ("tool", Some("circuit"))];

/// The first such name in the source: line and column (both from 1), and the name.
pub(super) fn not_yet(source: &str) -> Option<((u32, u32), String)> {
    let words = words(source);
    words.iter().enumerate().find_map(|(at, word)| {
        let before = at.checked_sub(1).and_then(|before| words.get(before));
        if before.is_some_and(|before| before.text == ".") {
            return None;
        }
        let mut after = words.iter().skip(at + 1).map(|word| word.text).filter(|text| *text != "?");
        let (root, wanted) = NOT_YET.iter().find(|(root, _)| *root == word.text)?;
        match wanted {
            None => Some((word.at, (*root).to_owned())),
            Some(wanted) => (after.next() == Some(".") && after.next() == Some(*wanted)).then(|| (word.at, format!("{root}.{wanted}"))),
        }
    })
}

struct Word<'s> {
    text: &'s str,
    at: (u32, u32),
}

/// Identifiers and punctuation of CEL, without the insides of literals and comments.
fn words(source: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let (mut line, mut column) = (1, 1);
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' | '\'' => literal(rest, c, words.last().is_some_and(|word: &Word<'_>| is_raw(word.text))),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if c.is_ascii_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
                words.push(Word { text: &rest[..end], at: (line, column) });
                end
            }
            _ => {
                if !c.is_whitespace() {
                    words.push(Word { text: &rest[..c.len_utf8()], at: (line, column) });
                }
                c.len_utf8()
            }
        };
        let (passed, left) = rest.split_at(length);
        for c in passed.chars() {
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        rest = left;
    }
    words
}

/// The prefixes that make a literal raw: no escapes in it.
fn is_raw(word: &str) -> bool {
    matches!(word, "r" | "R" | "br" | "bR" | "Br" | "BR" | "rb" | "rB" | "Rb" | "RB")
}

/// The length of the literal that `rest` begins with, quotes included.
fn literal(rest: &str, quote: char, raw: bool) -> usize {
    let triple = [quote; 3].iter().collect::<String>();
    let close = if rest.starts_with(&triple) { triple.as_str() } else { &triple[..1] };
    let mut at = close.len();
    while let Some(c) = rest.get(at..).and_then(|tail| tail.chars().next()) {
        if rest[at..].starts_with(close) {
            return at + close.len();
        }
        at += c.len_utf8();
        if c == '\\' && !raw {
            at += rest.get(at..).and_then(|tail| tail.chars().next()).map_or(0, char::len_utf8);
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_later_release_is_found_and_nothing_else() {
        let check = |source: &str, expect: Option<((u32, u32), &str)>| {
            assert_eq!(not_yet(source), expect.map(|(at, name)| (at, name.to_owned())), "{source}");
        };
        check("tool.circuit == \"Open\"", Some(((1, 1), "tool.circuit")));
        check("tool . circuit == 1", Some(((1, 1), "tool.circuit")));
        check("tool.?circuit.orValue(1) == 1", Some(((1, 1), "tool.circuit")));
        check("true &&\n  cost.micros > 5", Some(((2, 3), "cost")));
        check("request.body.cost > 5", None);
        check("request.tool.circuit > 5", None);
        check("tool.name == 'cost'", None);
        check(r"tool.name == 'it\'s cost'", None);
        check(r"tool.name == r'\' && cost == 1", Some(((1, 22), "cost")));
        check("\"\"\"a \" cost\"\"\" == tool.name // cost", None);
        check("\"cost", None);
    }
}
