//! The expressions of policies: CEL, bounded so that no expression can stall a call, over facts converted by our own rules.
//!
//! JSON integers are `int` and other numbers `double`; int and double mix in arithmetic and comparison; a number that a double
//! cannot hold exactly is an error to read. Names, and types as far as they show, are checked when an expression is compiled. Every
//! loop burns fuel.

mod bounds;
mod check;
mod env;
mod facts;
mod rewrite;
#[cfg(test)]
mod tests;
mod types;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::cel::common::ast::IdedExpr;
use ::cel::{Context, ExecutionError, Value};

pub use bounds::{DEPTH_MAX, FUEL, SOURCE_MAX};
pub use check::Profile;
pub use facts::{Facts, RequestFacts, ResponseFacts};

/// A compiled expression: cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Expression {
    inner: Arc<Compiled>,
}

struct Compiled {
    source: String,
    expr: IdedExpr,
    reads: check::Reads,
    gives: Option<types::Kind>,
}

/// Why a text is no expression for that place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct CompileError {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// Why an expression gave no usable value on this call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} in `{expression}`")]
pub struct EvalError {
    /// The expression, cut to a line.
    pub expression: String,
    /// What went wrong and what to do.
    pub message: String,
}

impl CompileError {
    /// Line and column, both from 1.
    pub fn position(&self) -> Option<(u32, u32)> {
        Some((u32::try_from(self.line).ok()?, u32::try_from(self.column).ok()?))
    }
}

impl Expression {
    /// Parses `source`, checks every name against what `profile` knows, and bounds its cost.
    pub fn compile(source: &str, profile: Profile) -> Result<Self, CompileError> {
        bounds::before_parsing(source)?;
        let program = env::shared().compile(source).map_err(|errors| first_error(source, &errors))?;
        bounds::after_parsing(program.expression())?;
        let reads = check::names(program.expression(), program.source_info(), profile)?;
        let gives = types::kind(program.expression(), program.source_info())?;
        types::patterns(program.expression(), program.source_info())?;
        let expr = rewrite::guarded(program.expression().clone());
        Ok(Self { inner: Arc::new(Compiled { source: source.to_owned(), expr, reads, gives }) })
    }

    /// The same, of what must be true or false: what surely is not is refused.
    pub fn compile_condition(source: &str, profile: Profile) -> Result<Self, CompileError> {
        let expression = Self::compile(source, profile)?;
        match expression.inner.gives {
            None | Some(types::Kind::Truth) => Ok(expression),
            Some(kind) => Err(CompileError {
                line: 1,
                column: 1,
                message: format!("the expression gives {kind} where {} belongs", types::Kind::Truth),
            }),
        }
    }

    /// The text that was compiled.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// Whether it looks at the request's body.
    pub fn reads_body(&self) -> bool {
        self.inner.reads.request_body
    }

    /// Whether it looks at the answer's body.
    pub fn reads_response_body(&self) -> bool {
        self.inner.reads.response_body
    }

    /// Evaluates to true or false; anything else is an error that names what came instead.
    pub fn eval_bool(&self, facts: &Facts) -> Result<bool, EvalError> {
        let value = self.eval(facts)?;
        if let Value::Bool(value) = value { Ok(value) } else { Err(self.expected("true or false", &value)) }
    }

    /// Evaluates to a text that is not empty.
    pub fn eval_string(&self, facts: &Facts) -> Result<String, EvalError> {
        let value = self.eval(facts)?;
        let Value::String(text) = &value else { return Err(self.expected("a text", &value)) };
        if text.is_empty() { Err(self.error("expected a text, got an empty one".to_owned())) } else { Ok(text.as_ref().clone()) }
    }

    /// Evaluates to one key or a list of keys; integers become their decimal text. Null, empty and anything else are errors.
    pub fn eval_keys(&self, facts: &Facts) -> Result<Vec<String>, EvalError> {
        let value = self.eval(facts)?;
        let Value::List(items) = &value else { return self.key(&value).map(|key| vec![key]) };
        if items.is_empty() {
            return Err(self.error("expected a key, got an empty list".to_owned()));
        }
        items.iter().map(|item| self.key(item)).collect()
    }

    fn key(&self, value: &Value) -> Result<String, EvalError> {
        if let Value::Int(number) = value {
            return Ok(number.to_string());
        }
        let Value::String(text) = value else { return Err(self.expected("a text, an integer or a list of them as key", value)) };
        if text.is_empty() { Err(self.error("expected a key, got an empty text".to_owned())) } else { Ok(text.as_ref().clone()) }
    }

    /// Evaluates to an integer, for amounts in millionths.
    pub fn eval_i64(&self, facts: &Facts) -> Result<i64, EvalError> {
        let value = self.eval(facts)?;
        if let Value::Int(number) = value { Ok(number) } else { Err(self.expected("an integer", &value)) }
    }

    fn eval(&self, facts: &Facts) -> Result<Value, EvalError> {
        let fuel = AtomicU64::new(FUEL);
        let mut context = Context::with_env(env::shared());
        context.set_variable_resolver(facts);
        let burn = move || -> Result<bool, ExecutionError> {
            let left = fuel.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            left.map(|_| true).map_err(|_| ExecutionError::function_error(rewrite::FUEL_FUNCTION, "fuel exhausted"))
        };
        // The name is ours alone (no expression can write it), so it cannot be taken.
        let declared = context.add_function(rewrite::FUEL_FUNCTION, burn);
        declared.map_err(|error| self.error(error.to_string()))?;
        context.resolve(&self.inner.expr).map_err(|error| self.error(explain(&error)))
    }

    fn expected(&self, what: &str, got: &Value) -> EvalError {
        self.error(format!("expected {what}, got {}", kind(got)))
    }

    fn error(&self, message: String) -> EvalError {
        EvalError { expression: one_line(&self.inner.source), message }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.inner.source)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.inner.source == other.inner.source
    }
}

fn first_error(source: &str, errors: &::cel::ParseErrors) -> CompileError {
    let Some(error) = errors.errors.first() else {
        return CompileError { line: 1, column: 1, message: "this is no CEL expression".to_owned() };
    };
    let (line, column) = (usize::try_from(error.pos.0).unwrap_or(1), usize::try_from(error.pos.1).unwrap_or(1));
    let lines = source.lines().count().max(1);
    CompileError {
        line: line.clamp(1, lines),
        column: column.max(1),
        message: format!("this is no CEL expression: {}", one_line(&error.msg)),
    }
}

/// What people can do about a failed evaluation.
fn explain(error: &ExecutionError) -> String {
    if let ExecutionError::NoSuchKey(name) = error {
        format!("there is no `{name}` here; guard it with has()")
    } else if let ExecutionError::FunctionError { message, .. } = error {
        one_line(message)
    } else {
        one_line(&error.to_string())
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Int(_) | Value::UInt(_) => "an integer",
        Value::Float(_) => "a decimal number",
        Value::String(_) => "a text",
        Value::List(_) => "a list",
        Value::Map(_) => "an object",
        Value::Bytes(_) | Value::Function(..) | Value::Opaque(_) | Value::Struct(_) => "something else",
    }
}

fn one_line(text: &str) -> String {
    const SHOWN: usize = 200;
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() { format!("{flat}…") } else { flat }
}
