//! What an expression may cost: length, nesting and loop steps, each refused by name.

use ::cel::common::ast::{EntryExpr, Expr, IdedExpr};

use super::CompileError;

/// Longest expression in bytes: rules that need more are two rules.
pub const SOURCE_MAX: usize = 4096;

/// Deepest nesting of brackets, operators and calls: parser and evaluator recurse.
pub const DEPTH_MAX: usize = 128;

/// Deepest nesting of loops; three of them over a full list exhaust any fuel.
const LOOPS_MAX: usize = 3;

/// Loop steps that one evaluation may take: a few milliseconds.
pub const FUEL: u64 = 100_000;

/// Refuses what the parser should not even see: it recurses over brackets, unary operators and conditionals.
pub(super) fn before_parsing(source: &str) -> Result<(), CompileError> {
    let refuse = |at: usize, message: String| {
        let before = &source[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Err(CompileError { line, column, message })
    };
    if source.trim().is_empty() {
        return refuse(0, "the expression is empty".to_owned());
    }
    if source.len() > SOURCE_MAX {
        return refuse(0, format!("the expression has {} bytes; at most {SOURCE_MAX} are allowed", source.len()));
    }
    let (mut open, mut unary, mut conditionals) = (0_usize, 0_usize, 0_usize);
    for (at, c) in source.char_indices() {
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            '?' => conditionals += 1,
            _ => {}
        }
        unary = match c {
            '!' | '-' => unary + 1,
            c if c.is_whitespace() => unary,
            _ => 0,
        };
        if open > DEPTH_MAX / 2 || unary > DEPTH_MAX / 4 || conditionals > DEPTH_MAX / 2 {
            return refuse(at, format!("the expression nests deeper than {} levels", DEPTH_MAX / 2));
        }
    }
    Ok(())
}

/// Refuses trees that are too deep to evaluate, and loops in loops in loops.
pub(super) fn after_parsing(root: &IdedExpr) -> Result<(), CompileError> {
    let mut pending = vec![(root, 1_usize, 0_usize)];
    while let Some((node, depth, loops)) = pending.pop() {
        if depth > DEPTH_MAX {
            return Err(CompileError { line: 1, column: 1, message: format!("the expression nests deeper than {DEPTH_MAX} levels") });
        }
        let inner = loops + usize::from(matches!(node.expr, Expr::Comprehension(_)));
        if inner > LOOPS_MAX {
            return Err(CompileError {
                line: 1,
                column: 1,
                message: format!("more than {LOOPS_MAX} loops (all, exists, map, filter) are nested"),
            });
        }
        pending.extend(children(&node.expr).into_iter().map(|child| (child, depth + 1, inner)));
    }
    Ok(())
}

/// The nodes directly below one.
pub(super) fn children(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(each) => vec![&each.iter_range, &each.accu_init, &each.loop_cond, &each.loop_step, &each.result],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Struct(literal) => literal.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
    }
}

fn entry_children(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}
