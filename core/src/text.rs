//! Lines that people read, cut to the bytes that there is room for.

/// The beginning of `text` in at most `max_bytes` bytes of whole characters; where something is missing, its last character
/// is `…` (three bytes, so that `max_bytes` is at least 3).
pub fn shortened(text: &str, max_bytes: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    format!("{}{ELLIPSIS}", beginning(text, max_bytes.saturating_sub(ELLIPSIS.len())))
}

/// The longest beginning of `text` that has at most `max_bytes` bytes and ends at a character's end.
pub(crate) fn beginning(text: &str, max_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(max_bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_between_characters_and_says_so() {
        for (text, max_bytes, short) in [
            ("", 3, ""),
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "ab…"),
            ("äöü", 6, "äöü"),
            ("äöüß", 7, "äö…"),
            ("äöüß", 6, "ä…"),
            ("😀😀", 3, "…"),
        ] {
            assert_eq!(shortened(text, max_bytes), short, "{text} in {max_bytes}");
            assert!(shortened(text, max_bytes).len() <= max_bytes);
        }
    }
}
