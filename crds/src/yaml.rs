//! YAML and JSON read into a tree that knows where everything stands, within bounds: a manifest is small, and a file that unfolds
//! into millions of nodes is an attack or an accident.
//!
//! The parser is granit-parser: maintained, free of unsafe code, YAML 1.2, with the line and column of every node.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Number, Value};

/// Largest file. The API server takes objects up to 1.5 MiB; nobody writes such a one by hand.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Most documents in one file.
pub const DOCUMENTS_MAX: usize = 500;
/// Deepest nesting; the deepest manifest has 8 levels, a JSON Schema in one some more.
pub const DEPTH_MAX: usize = 64;
/// Most values in one file once its aliases are written out; long text counts as one more for every [`TEXT_UNIT`].
pub const NODES_MAX: usize = 100_000;
/// Bytes of text that weigh as much as a node, so that an alias of a long text cannot be repeated without end.
const TEXT_UNIT: usize = 16;

/// A place in a file, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column in characters.
    pub column: usize,
}

/// A step from a node to one of its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The member of this name.
    Member(String),
    /// The item at this index.
    Item(usize),
}

/// Why a file is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct YamlError {
    pub(crate) at: Position,
    pub(crate) problem: String,
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Scalar(Value, Text),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// One `name: value` of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) at: Position,
    pub(crate) value: Node,
}

/// How a scalar's characters lie in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub(crate) style: ScalarStyle,
    pub(crate) one_line: bool,
}

impl Node {
    /// The value without its places.
    pub(crate) fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value, _) => value.clone(),
            Content::List(items) => items.iter().map(Self::to_json).collect(),
            Content::Map(members) => {
                let pairs = members.iter().map(|member| (member.name.clone(), member.value.to_json()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }

    /// The member of this name.
    pub(crate) fn member(&self, name: &str) -> Option<&Member> {
        match &self.content {
            Content::Map(members) => members.iter().find(|member| member.name == name),
            Content::Scalar(..) | Content::List(_) => None,
        }
    }

    /// The node at the end of the path.
    pub(crate) fn find(&self, path: &[Step]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| match (step, &node.content) {
            (Step::Member(name), Content::Map(_)) => node.member(name).map(|member| &member.value),
            (Step::Item(index), Content::List(items)) => items.get(*index),
            (_, Content::Scalar(..) | Content::List(_) | Content::Map(_)) => None,
        })
    }

    /// Where the path's end stands: its name for a member, its beginning for an item; where the path leads to nothing, the
    /// last thing on it that is there.
    pub(crate) fn place(&self, path: &[Step]) -> Position {
        let (mut node, mut at) = (self, self.at);
        for step in path {
            let next = match (step, &node.content) {
                (Step::Member(name), Content::Map(_)) => node.member(name).map(|member| (&member.value, member.at)),
                (Step::Item(index), Content::List(items)) => items.get(*index).map(|item| (item, item.at)),
                (_, Content::Scalar(..) | Content::List(_) | Content::Map(_)) => None,
            };
            let Some(next) = next else { break };
            (node, at) = next;
        }
        at
    }
}

/// A value in memory as a tree, within the same bounds; it stands nowhere, so every place in it is the first.
pub(crate) fn from_json(value: &Value) -> Result<Node, YamlError> {
    let mut left = NODES_MAX;
    node_of(value, DEPTH_MAX, &mut left)
}

const NOWHERE: Position = Position { line: 1, column: 1 };

fn node_of(value: &Value, depth: usize, left: &mut usize) -> Result<Node, YamlError> {
    let bound = |problem: String| YamlError { at: NOWHERE, problem };
    let Some(depth) = depth.checked_sub(1) else {
        return Err(bound(format!("the object is nested more than {DEPTH_MAX} levels deep. Flatten it")));
    };
    let weight = 1 + if let Value::String(text) = value { text.len() / TEXT_UNIT } else { 0 };
    *left = left.checked_sub(weight).ok_or_else(|| bound(format!("the object has more than {NODES_MAX} values. Split it")))?;
    let content = match value {
        Value::Array(items) => Content::List(items.iter().map(|item| node_of(item, depth, left)).collect::<Result<_, _>>()?),
        Value::Object(members) => {
            let member =
                |(name, value): (&String, &Value)| Ok(Member { name: name.clone(), at: NOWHERE, value: node_of(value, depth, left)? });
            Content::Map(members.iter().map(member).collect::<Result<_, YamlError>>()?)
        }
        scalar => Content::Scalar(scalar.clone(), Text { style: ScalarStyle::DoubleQuoted, one_line: false }),
    };
    Ok(Node { at: NOWHERE, content })
}

/// Reads every document of a file; an empty document is left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, YamlError> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut reader = Reader { parser: Parser::new_from_str_with_options(text, options), anchors: Vec::new(), nodes: 0 };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::DocumentStart(..) => {
                if documents.len() == DOCUMENTS_MAX {
                    return Err(error(span, format!("the file has more than {DOCUMENTS_MAX} documents. Split it")));
                }
                reader.anchors.clear();
                let (event, span) = reader.expect()?;
                let root = reader.node(event, span, 0)?;
                if !matches!(root.content, Content::Scalar(Value::Null, _)) {
                    documents.push(root);
                }
            }
            Event::StreamEnd => break,
            _ => {}
        }
    }
    Ok(documents)
}

struct Reader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    anchors: Vec<(usize, Node, usize)>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, YamlError> {
        self.parser.next_event().transpose().map_err(|problem| scan_error(&problem))
    }

    fn expect(&mut self) -> Result<(Event<'t>, Span), YamlError> {
        let end = YamlError { at: Position { line: 1, column: 1 }, problem: "the file ends too early. Complete it".to_owned() };
        self.next()?.ok_or(end)
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, YamlError> {
        if depth > DEPTH_MAX {
            return Err(error(span, format!("is nested deeper than {DEPTH_MAX} levels. Flatten it")));
        }
        let before = self.nodes;
        let text = if let Event::Scalar(text, ..) = &event { text.len() } else { 0 };
        self.count(1 + text / TEXT_UNIT, span)?;
        let at = position(span);
        let (content, anchor) = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_deref().map(|tag| (tag.core_suffix(), tag.original()));
                let value = match tag {
                    None => plain(&text, style).map_err(|problem| error(span, problem))?,
                    Some((Some("str"), _)) => Value::String(text.into_owned()),
                    Some((Some(_), _)) if style == ScalarStyle::Plain => plain(&text, style).map_err(|problem| error(span, problem))?,
                    Some((_, written)) => {
                        return Err(error(span, format!("the tag {written} is not known here. Leave it out")));
                    }
                };
                let one_line = span.start.line() == span.end.line();
                (Content::Scalar(value, Text { style, one_line }), anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.map(depth)?, anchor),
            _ => return Err(error(span, "a value is missing here. Write one".to_owned())),
        };
        let node = Node { at, content };
        if anchor != 0 {
            let weight = self.nodes - before;
            self.count(weight, span)?;
            self.anchors.push((anchor, node.clone(), weight));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Content, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.expect()? {
                (Event::SequenceEnd, _) => return Ok(Content::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Content, YamlError> {
        let mut members: Vec<Member> = Vec::new();
        let mut seen = HashMap::new();
        loop {
            let (event, span) = self.expect()?;
            if event == Event::MappingEnd {
                return Ok(Content::Map(members));
            }
            let Event::Scalar(name, _, 0, None) = event else {
                return Err(error(span, "a field's name is plain text. Write it without tag, anchor or nesting".to_owned()));
            };
            let (name, at) = (name.into_owned(), position(span));
            if name == "<<" {
                return Err(error(span, "merge keys are not read. Write the fields out".to_owned()));
            }
            if let Some(line) = seen.insert(name.clone(), at.line) {
                return Err(error(span, format!("{name:?} is given twice, first on line {line}. Remove one of them")));
            }
            let (event, span) = self.expect()?;
            members.push(Member { name, at, value: self.node(event, span, depth + 1)? });
        }
    }

    /// Copies the anchored node, counting every node that the copy has.
    fn alias(&mut self, id: usize, span: Span) -> Result<Node, YamlError> {
        let found = self.anchors.iter().rev().find(|(known, ..)| *known == id);
        let Some((_, node, weight)) = found.map(|(id, node, weight)| (*id, node.clone(), *weight)) else {
            return Err(error(span, "the alias stands inside what it names. Write the value out".to_owned()));
        };
        self.count(weight, span)?;
        Ok(node)
    }

    fn count(&mut self, more: usize, span: Span) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > NODES_MAX {
            return Err(error(span, format!("the file unfolds to more than {NODES_MAX} values. Shorten it or its aliases")));
        }
        Ok(())
    }
}

fn position(span: Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col() + 1 }
}

fn error(span: Span, problem: String) -> YamlError {
    YamlError { at: position(span), problem }
}

fn scan_error(problem: &ScanError) -> YamlError {
    let marker = problem.marker();
    let at = Position { line: marker.line().max(1), column: marker.col() + 1 };
    let problem = match problem.kind() {
        ErrorKind::RecursionLimitExceeded => format!("is nested deeper than {DEPTH_MAX} levels. Flatten it"),
        _ => format!("is not YAML: {}. Correct the syntax", problem.info()),
    };
    YamlError { at, problem }
}

/// The value of an untagged scalar, by the core schema of YAML 1.2 (10.3.2).
fn plain(text: &str, style: ScalarStyle) -> Result<Value, String> {
    if style != ScalarStyle::Plain {
        return Ok(Value::String(text.to_owned()));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => {
            return Err(format!("{text} has no place in a manifest. Write a finite number"));
        }
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    })
}

fn number(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().filter(|_| !digits.starts_with('+')).map(Number::from);
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let bare = text.strip_prefix('+').unwrap_or(text);
        if let Ok(whole) = bare.parse::<u64>() {
            return Some(Number::from(whole));
        }
        if let Ok(whole) = bare.parse::<i64>() {
            return Some(Number::from(whole));
        }
    }
    is_float(unsigned).then(|| text.parse::<f64>().ok().and_then(Number::from_f64)).flatten()
}

/// `[0-9]+ or [0-9]*.[0-9]+`, with an optional exponent.
fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let sound_exponent = exponent.is_none_or(|text| digits(text.strip_prefix(['-', '+']).unwrap_or(text)));
    let sound_mantissa = match mantissa.split_once('.') {
        Some((whole, fraction)) => (digits(whole) && (fraction.is_empty() || digits(fraction))) || (whole.is_empty() && digits(fraction)),
        None => digits(mantissa),
    };
    sound_exponent && sound_mantissa
}
