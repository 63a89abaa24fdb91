//! From a place inside an expression to the place in the file where a person would look for it.

use granit_parser::ScalarStyle;

use crate::yaml::{Content, Node, Position};

/// The file position of line `line` and column `column` (both from 1) of the text that the scalar holds, where the scalar's
/// notation lets that be told.
pub(crate) fn inside(source: &str, scalar: &Node, line: u32, column: u32) -> Option<Position> {
    let Content::Scalar(_, text) = &scalar.content else { return None };
    let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
    let start = scalar.at;
    if text.style == ScalarStyle::Literal {
        return in_literal(source, start, line, column);
    }
    if !text.one_line || line != 1 {
        return None;
    }
    let written = source.lines().nth(start.line - 1)?.chars().skip(start.column - 1);
    let width = match text.style {
        ScalarStyle::Plain => column - 1,
        ScalarStyle::SingleQuoted => 1 + single_quoted(written.skip(1), column - 1),
        ScalarStyle::DoubleQuoted => 1 + double_quoted(written.skip(1), column - 1),
        ScalarStyle::Literal | ScalarStyle::Folded => return None,
    };
    Some(Position { line: start.line, column: start.column + width })
}

/// Width in the file of the first `count` characters; a quote is written twice.
fn single_quoted(mut written: impl Iterator<Item = char>, count: usize) -> usize {
    let mut width = 0;
    for _ in 0..count {
        match written.next() {
            Some('\'') => {
                written.next();
                width += 2;
            }
            _ => width += 1,
        }
    }
    width
}

/// Width in the file of the first `count` characters; an escape is two to ten wide (YAML 1.2, 5.7).
fn double_quoted(mut written: impl Iterator<Item = char>, count: usize) -> usize {
    let mut width = 0;
    for _ in 0..count {
        width += 1;
        if written.next() == Some('\\') {
            let more = match written.next() {
                Some('x') => 2,
                Some('u') => 4,
                Some('U') => 8,
                _ => 0,
            };
            for _ in 0..more {
                written.next();
            }
            width += 1 + more;
        }
    }
    width
}

/// A literal block's lines stand below its `|`, all indented as its first line that is not blank.
fn in_literal(source: &str, start: Position, line: usize, column: usize) -> Option<Position> {
    let header = source.lines().nth(start.line - 1)?;
    let first = if header.chars().nth(start.column - 1) == Some('|') { start.line + 1 } else { start.line };
    let indent =
        source.lines().skip(first - 1).find(|text| !text.trim().is_empty()).map(|text| text.chars().take_while(|c| *c == ' ').count())?;
    Some(Position { line: first + line - 1, column: indent + column })
}
