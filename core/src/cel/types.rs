//! Types, as far as an expression shows its own: what surely is a text is no number, and neither is true or false. What comes from a
//! document shows when it is read, and so does what a loop gives.

use std::fmt;

use ::cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators};

use regex::Regex;

use super::CompileError;
use super::bounds::children;
use super::check::error_at;

/// What an expression gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Truth,
    Number,
    Text,
    Bytes,
    List,
    Map,
    Null,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truth => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Bytes => "bytes",
            Self::List => "a list",
            Self::Map => "an object",
            Self::Null => "null",
        })
    }
}

/// What it gives, where that can be seen; refuses what cannot go well, whatever the call is like.
pub(super) fn kind(node: &IdedExpr, source: &SourceInfo) -> Result<Option<Kind>, CompileError> {
    match &node.expr {
        Expr::Literal(literal) => Ok(Some(of_literal(literal))),
        Expr::List(_) => parts(node, source).map(|()| Some(Kind::List)),
        Expr::Map(_) => parts(node, source).map(|()| Some(Kind::Map)),
        Expr::Ident(name) => Ok(of_variable(name)),
        Expr::Select(select) => kind(&select.operand, source).map(|_| of_field(select)),
        Expr::Call(call) => of_call(node, call, source),
        // What a loop goes over stands outside it; inside, a name may be the loop's own.
        Expr::Comprehension(each) => kind(&each.iter_range, source).map(|_| None),
        Expr::Struct(_) | Expr::Unspecified => Ok(None),
    }
}

fn parts(node: &IdedExpr, source: &SourceInfo) -> Result<(), CompileError> {
    children(&node.expr).into_iter().try_for_each(|part| kind(part, source).map(drop))
}

/// Refuses a constant pattern that does not compile: it would err on every call.
pub(super) fn patterns(root: &IdedExpr, source: &SourceInfo) -> Result<(), CompileError> {
    let mut pending = vec![root];
    while let Some(node) = pending.pop() {
        if let Expr::Call(call) = &node.expr
            && call.func_name == "matches"
            && let Some(IdedExpr { id, expr: Expr::Literal(LiteralValue::String(pattern)) }) = call.args.last()
            && let Err(error) = Regex::new(pattern.inner())
        {
            return Err(error_at(source, *id, format!("{:?} is no regular expression: {}", pattern.inner(), cause(&error))));
        }
        pending.extend(children(&node.expr));
    }
    Ok(())
}

/// The last line of what the library draws over several.
fn cause(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().next_back().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

const fn of_literal(literal: &LiteralValue) -> Kind {
    match literal {
        LiteralValue::Boolean(_) => Kind::Truth,
        LiteralValue::Bytes(_) => Kind::Bytes,
        LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Kind::Number,
        LiteralValue::Null => Kind::Null,
        LiteralValue::String(_) => Kind::Text,
    }
}

fn of_variable(name: &str) -> Option<Kind> {
    match name {
        "attempt" => Some(Kind::Number),
        "request" | "response" | "agent" | "run" | "tool" | "cost" => Some(Kind::Map),
        _ => None,
    }
}

fn of_field(select: &SelectExpr) -> Option<Kind> {
    if select.test {
        return Some(Kind::Truth);
    }
    let Expr::Ident(variable) = &select.operand.expr else { return None };
    match (variable.as_str(), select.field.as_str()) {
        ("request", "method" | "scheme" | "host" | "path")
        | ("agent", "name" | "namespace")
        | ("run", "id")
        | ("tool", "name" | "class" | "circuit")
        | ("cost", "currency") => Some(Kind::Text),
        ("request", "port") | ("response", "status") | ("cost", "micros") => Some(Kind::Number),
        ("request", "query" | "headers") | ("response", "headers") | ("agent", "labels") => Some(Kind::Map),
        ("run", "explicit") => Some(Kind::Truth),
        _ => None,
    }
}

fn of_call(node: &IdedExpr, call: &CallExpr, source: &SourceInfo) -> Result<Option<Kind>, CompileError> {
    let parts: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
    let kinds = parts.iter().map(|part| kind(part, source)).collect::<Result<Vec<_>, _>>()?;
    let all = |expected: Kind| {
        let wrong = parts.iter().zip(&kinds).find_map(|(part, kind)| kind.filter(|kind| *kind != expected).map(|kind| (part.id, kind)));
        wrong.map_or(Ok(Some(expected)), |(id, kind)| Err(error_at(source, id, format!("this is {kind} where {expected} belongs"))))
    };
    match (call.func_name.as_str(), kinds.as_slice()) {
        (operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT, _) => all(Kind::Truth),
        (operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO | operators::NEGATE, _) => all(Kind::Number),
        (operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS, [Some(one), Some(other)])
            if one != other =>
        {
            Err(error_at(source, node.id, format!("{one} is neither more nor less than {other}")))
        }
        (operators::CONDITIONAL, [Some(condition), ..]) if *condition != Kind::Truth => {
            Err(error_at(source, node.id, format!("before ? stands {condition} where {} belongs", Kind::Truth)))
        }
        (operators::CONDITIONAL, [_, one, other]) => Ok(one.filter(|_| one == other)),
        (operators::ADD, [Some(one), Some(other)]) => {
            Ok(Some(*one).filter(|kind| one == other && matches!(kind, Kind::Number | Kind::Text | Kind::List)))
        }
        (
            operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
            | operators::EQUALS
            | operators::NOT_EQUALS
            | operators::IN
            | "bool"
            | "contains"
            | "startsWith"
            | "endsWith"
            | "matches"
            | "hasValue",
            _,
        ) => Ok(Some(Kind::Truth)),
        ("size" | "int" | "uint" | "double", _) => Ok(Some(Kind::Number)),
        ("string", _) => Ok(Some(Kind::Text)),
        ("bytes", _) => Ok(Some(Kind::Bytes)),
        _ => Ok(None),
    }
}
