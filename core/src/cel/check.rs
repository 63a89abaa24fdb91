//! Names: every variable, field and function of an expression must be one that exists where the expression stands.

use ::cel::common::ast::{Expr, IdedExpr, LiteralValue, SourceInfo, operators};

use super::CompileError;
use super::bounds::children;

/// Where an expression stands, which decides what it can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Before the call is judged: keys, principals, probe URLs. Sees `request`, `agent`, `run`, `tool`.
    Request,
    /// A rule's `when`: also `cost` and `attempt`.
    Policy,
    /// A tool's `outcome`: also `response`.
    Outcome,
    /// A probe's two words: as for the outcome, `response` being the probe's.
    Probe,
}

/// What a part of the facts has below it.
enum Shape {
    /// These fields and no others.
    Fields(&'static [&'static str]),
    /// Anything: the document decides.
    Open,
}

const REQUEST: &[&str] = &["method", "scheme", "host", "port", "path", "query", "headers", "body"];
const RESPONSE: &[&str] = &["status", "headers", "body"];

impl Profile {
    const fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Request => &["request", "agent", "run", "tool"],
            Self::Policy => &["request", "agent", "run", "tool", "cost", "attempt"],
            Self::Outcome | Self::Probe => &["request", "agent", "run", "tool", "cost", "attempt", "response"],
        }
    }
}

fn shape(variable: &str) -> Shape {
    match variable {
        "request" => Shape::Fields(REQUEST),
        "response" => Shape::Fields(RESPONSE),
        "agent" => Shape::Fields(&["name", "namespace", "labels"]),
        "run" => Shape::Fields(&["id", "explicit"]),
        "tool" => Shape::Fields(&["name", "class", "circuit"]),
        "cost" => Shape::Fields(&["micros", "currency"]),
        _ => Shape::Open,
    }
}

/// Functions of the standard environment that a text can call; operators and macros have names of their own.
const FUNCTIONS: &[&str] = &[
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "has",
    "hasValue",
    "int",
    "matches",
    "max",
    "min",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
    "value",
    "ofNonZeroValue",
    "of",
    "none",
];

/// What an expression looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    pub(super) request_body: bool,
    pub(super) response_body: bool,
}

pub(super) fn names(root: &IdedExpr, source: &SourceInfo, profile: Profile) -> Result<Reads, CompileError> {
    let mut walk = Walk { source, profile, bound: Vec::new(), reads: Reads::default() };
    walk.node(root)?;
    Ok(walk.reads)
}

/// At a node's place.
pub(super) fn error_at(source: &SourceInfo, id: u64, message: String) -> CompileError {
    let start = source.offset_for(id).map_or(0, |(start, _)| usize::try_from(start).unwrap_or_default());
    let before = source.source.get(..start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    CompileError { line, column, message }
}

struct Walk<'s> {
    source: &'s SourceInfo,
    profile: Profile,
    bound: Vec<String>,
    reads: Reads,
}

impl Walk<'_> {
    fn error(&self, id: u64, message: String) -> CompileError {
        error_at(self.source, id, message)
    }

    fn node(&mut self, node: &IdedExpr) -> Result<(), CompileError> {
        match &node.expr {
            Expr::Ident(name) => self.variable(node.id, name),
            Expr::Select(select) => {
                self.field(node.id, &select.operand, &select.field)?;
                self.operand(&select.operand)
            }
            Expr::Call(call) => {
                if call.func_name == operators::INDEX || call.func_name == operators::OPT_INDEX || call.func_name == operators::OPT_SELECT {
                    if let [operand, IdedExpr { expr: Expr::Literal(LiteralValue::String(field)), .. }] = call.args.as_slice() {
                        self.field(node.id, operand, field.inner())?;
                        return self.operand(operand);
                    }
                } else if !is_operator(&call.func_name) {
                    self.function(node.id, &call.func_name)?;
                }
                let namespace = matches!(call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if name == "optional");
                children(&node.expr).into_iter().skip(usize::from(namespace)).try_for_each(|child| self.node(child))
            }
            Expr::Comprehension(each) => {
                self.node(&each.iter_range)?;
                self.node(&each.accu_init)?;
                let depth = self.bound.len();
                self.bound.extend([each.iter_var.clone(), each.accu_var.clone()]);
                self.bound.extend(each.iter_var2.clone());
                [&each.loop_cond, &each.loop_step, &each.result].into_iter().try_for_each(|part| self.node(part))?;
                self.bound.truncate(depth);
                Ok(())
            }
            Expr::Struct(literal) => Err(self.error(node.id, format!("`{}` is no type that policies know", literal.type_name))),
            Expr::Unspecified | Expr::Literal(_) | Expr::List(_) | Expr::Map(_) => {
                children(&node.expr).into_iter().try_for_each(|child| self.node(child))
            }
        }
    }

    /// An operand whose field is already known: a bare variable needs no look at everything below it.
    fn operand(&mut self, operand: &IdedExpr) -> Result<(), CompileError> {
        if let Expr::Ident(name) = &operand.expr { self.known(operand.id, name) } else { self.node(operand) }
    }

    fn variable(&mut self, id: u64, name: &str) -> Result<(), CompileError> {
        self.known(id, name)?;
        if !self.bound.iter().any(|bound| bound == name) {
            // The whole variable is read, the body with it.
            self.reads.request_body |= name == "request";
            self.reads.response_body |= name == "response";
        }
        Ok(())
    }

    fn known(&self, id: u64, name: &str) -> Result<(), CompileError> {
        let variables = self.profile.variables();
        let types = ["int", "uint", "double", "string", "bool", "bytes", "list", "map", "null_type", "type"];
        if self.bound.iter().any(|bound| bound == name) || variables.contains(&name) || types.contains(&name) {
            return Ok(());
        }
        Err(self.error(id, format!("there is no `{name}` here{}; known are {}", suggestion(name, variables), variables.join(", "))))
    }

    fn field(&mut self, id: u64, operand: &IdedExpr, field: &str) -> Result<(), CompileError> {
        let Expr::Ident(variable) = &operand.expr else { return Ok(()) };
        if self.bound.contains(variable) {
            return Ok(());
        }
        let Shape::Fields(fields) = shape(variable) else { return Ok(()) };
        if !fields.contains(&field) {
            let message = format!("`{variable}` has no `{field}`{}; it has {}", suggestion(field, fields), fields.join(", "));
            return Err(self.error(id, message));
        }
        self.reads.request_body |= variable == "request" && field == "body";
        self.reads.response_body |= variable == "response" && field == "body";
        Ok(())
    }

    fn function(&self, id: u64, name: &str) -> Result<(), CompileError> {
        if FUNCTIONS.contains(&name) {
            return Ok(());
        }
        Err(self.error(id, format!("there is no function `{name}`{}", suggestion(name, FUNCTIONS))))
    }
}

/// Operators and what macros expand to: names that no text can call.
fn is_operator(name: &str) -> bool {
    name.contains('_') || name.starts_with('@') || name == "-" || name == "!"
}

fn suggestion(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|other| (distance(name, other), other)).min();
    near.filter(|(distance, _)| *distance <= 2).map(|(_, other)| format!(", did you mean `{other}`")).unwrap_or_default()
}

/// Edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
