//! Warnings as they reach people. The API server drops one with control characters, and, once there is much of it, cuts each at 256
//! characters; a sentence that loses its end loses its advice. So long ones are split between words.

/// Where the API server cuts (`truncateItemRunes` in `k8s.io/apiserver/pkg/endpoints/filters/warning.go`).
const CHARS_MAX: usize = 256;
/// All of them together stay below what makes it cut (`truncateAtTotalRunes`, 4096), others' warnings being counted too.
const PIECES_MAX: usize = 12;
/// Says that a sentence goes on.
const MORE: &str = " …";

/// The same in pieces that are passed on whole.
pub(crate) fn fitted(warnings: &[String]) -> Vec<String> {
    let mut pieces: Vec<String> = warnings.iter().flat_map(|warning| split(warning)).collect();
    if pieces.len() > PIECES_MAX {
        let more = pieces.len() - (PIECES_MAX - 1);
        pieces.truncate(PIECES_MAX - 1);
        pieces.push(format!("and {more} more warnings, which show once these are mended"));
    }
    pieces
}

fn split(warning: &str) -> Vec<String> {
    let clean: String = warning.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut rest = clean.trim();
    let mut pieces = Vec::new();
    while let Some((end, _)) = rest.char_indices().nth(CHARS_MAX) {
        let room = rest.char_indices().nth(CHARS_MAX - MORE.chars().count()).map_or(end, |(at, _)| at);
        let head = rest.get(..room).unwrap_or(rest);
        // A word that fills a line by itself is cut.
        let cut = head.rfind(' ').filter(|space| *space > room / 2).unwrap_or(room);
        pieces.push(format!("{}{MORE}", head.get(..cut).unwrap_or(head).trim_end()));
        rest = rest.get(cut..).unwrap_or_default().trim_start();
    }
    if !rest.is_empty() {
        pieces.push(rest.to_owned());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_ones_stay_and_long_ones_are_split_between_words() {
        assert_eq!(fitted(&["short".to_owned(), "a\nb\u{7f}".to_owned()]), ["short", "a b"]);
        let pieces = fitted(&["word ".repeat(100)]);
        assert_eq!(pieces.len(), 2);
        assert!(pieces[0].ends_with("word …") && pieces[1].starts_with("word"), "{pieces:?}");
        let many = fitted(&vec!["w".to_owned(); 40]);
        assert_eq!(many.len(), PIECES_MAX);
        assert_eq!(many[PIECES_MAX - 1], "and 29 more warnings, which show once these are mended");
    }

    proptest! {
        #[test]
        fn every_piece_is_passed_on_whole(warnings in proptest::collection::vec(any::<String>(), 0..20), long in "\\PC{0,900}") {
            for piece in fitted(&[warnings, vec![long]].concat()) {
                prop_assert!(piece.chars().count() <= CHARS_MAX && !piece.chars().any(char::is_control), "{piece:?}");
            }
        }
    }
}
