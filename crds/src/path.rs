//! Paths to fields, between the forms that they come in: serde's, JSON pointers, and the text that people read.

use crate::yaml::Step;

/// `spec.rules[0].when`.
pub(crate) fn to_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Member(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Item(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// Reads `spec.rules[0].when` back; names without dots and brackets only, as our own fields are.
pub(crate) fn from_text(text: &str) -> Vec<Step> {
    let mut path = Vec::new();
    for part in text.split('.') {
        let mut pieces = part.split('[');
        if let Some(name) = pieces.next().filter(|name| !name.is_empty()) {
            path.push(Step::Member(name.to_owned()));
        }
        path.extend(pieces.filter_map(|piece| piece.strip_suffix(']')?.parse().ok().map(Step::Item)));
    }
    path
}

/// Reads a JSON pointer against nothing: a step of digits is an item.
pub(crate) fn from_pointer(pointer: &str) -> Vec<Step> {
    let step = |part: &str| part.parse().map_or_else(|_| Step::Member(part.replace("~1", "/").replace("~0", "~")), Step::Item);
    pointer.split('/').skip(1).map(step).collect()
}

pub(crate) fn from_ignored(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    let (parent, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(Step::Item(*index))),
        Path::Map { parent, key } => (parent, Some(Step::Member(key.clone()))),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut steps = from_ignored(parent);
    steps.extend(step);
    steps
}

pub(crate) fn from_tracked(path: &serde_path_to_error::Path) -> Vec<Step> {
    use serde_path_to_error::Segment;
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Item(*index)),
        Segment::Map { key } => Some(Step::Member(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_is_written() {
        for text in ["spec.rules[0].when", "metadata.name", "spec.match[2].paths[10].value", ""] {
            assert_eq!(to_text(&from_text(text)), text);
        }
        assert_eq!(to_text(&from_pointer("/spec/rules/0/a~1b")), "spec.rules[0].a/b");
    }
}
