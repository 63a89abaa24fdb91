//! What somebody may have meant.

/// More edits than this make another word.
const EDITS_MAX: usize = 3;
/// Longer than any name of ours: nobody meant one.
const LENGTH_MAX: usize = 63;

/// The candidate that is nearest to what was written, if it is near.
pub(super) fn nearest<'c>(written: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if written.len() > LENGTH_MAX {
        return None;
    }
    let near = candidates.map(|candidate| (edits(written, candidate), candidate));
    let (edits, nearest) = near.min_by_key(|(edits, _)| *edits)?;
    // Of a short word three edits leave nothing.
    (edits <= EDITS_MAX.min(nearest.len() / 2)).then_some(nearest)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        for (written, expect) in [
            ("captures", Some("capture")),
            ("injected", Some("inject")),
            ("proxy-cpu-requests", Some("proxy-cpu-request")),
            ("log-levels", Some("log-level")),
            ("tenant", None),
            ("", None),
        ] {
            let known = ["inject", "capture", "agent", "proxy-cpu-request", "proxy-cpu-limit", "log-level"];
            assert_eq!(nearest(written, known.into_iter()), expect, "{written}");
        }
    }
}
