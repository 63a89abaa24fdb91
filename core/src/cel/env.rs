//! The environment that every expression shares: CEL's own library, int and double mixed, and the check on what is read.

use std::sync::{Arc, LazyLock};

use ::cel::common::types::{CelBytes, CelDouble, CelInt, CelList, CelMap, DYN_TYPE};
use ::cel::common::value::{CowVal, Val};
use ::cel::{Env, ExecutionError, Value};

use super::rewrite::{ADD_FUNCTION, DIVIDE_FUNCTION, IN_ORDER_FUNCTION, MULTIPLY_FUNCTION, READ_FUNCTION, SUBTRACT_FUNCTION};

/// The shared environment.
pub(super) fn shared() -> Arc<Env> {
    static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(build()));
    Arc::clone(&ENV)
}

type Args<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

fn build() -> Env {
    let mut env = Env::stdlib();
    let arithmetic: [(&str, ::cel::common::functions::Function); 4] =
        [(ADD_FUNCTION, add), (SUBTRACT_FUNCTION, subtract), (MULTIPLY_FUNCTION, multiply), (DIVIDE_FUNCTION, divide)];
    for (name, function) in arithmetic {
        // These names are ours alone: a clash is impossible, and one would fail every test of arithmetic.
        let _ = env.add_overload(name, &format!("{name}_dyn"), vec![DYN_TYPE, DYN_TYPE], function);
    }
    let _ = env.add_overload(READ_FUNCTION, "read_dyn", vec![DYN_TYPE], read);
    let _ = env.add_overload(IN_ORDER_FUNCTION, "in_order_dyn", vec![DYN_TYPE], in_order);
    env
}

fn add<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let (a, b) = pair(&args)?;
    match mixed(a, b) {
        Some((a, b)) => Ok(CowVal::owned(CelDouble::from(a + b))),
        None => {
            let names = sorted_keys(b);
            let b = names.as_ref().map_or(b, |names| names);
            Ok(CowVal::Owned(a.as_adder().ok_or_else(|| unsupported("+", a, b))?.add(b)?.into_owned()))
        }
    }
}

fn subtract<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let (a, b) = pair(&args)?;
    match mixed(a, b) {
        Some((a, b)) => Ok(CowVal::owned(CelDouble::from(a - b))),
        None => Ok(CowVal::Owned(a.as_subtractor().ok_or_else(|| unsupported("-", a, b))?.sub(b)?.into_owned())),
    }
}

fn multiply<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let (a, b) = pair(&args)?;
    match mixed(a, b) {
        Some((a, b)) => Ok(CowVal::owned(CelDouble::from(a * b))),
        None => Ok(CowVal::Owned(a.as_multiplier().ok_or_else(|| unsupported("*", a, b))?.mul(b)?.into_owned())),
    }
}

fn divide<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let (a, b) = pair(&args)?;
    match mixed(a, b) {
        Some((a, b)) => Ok(CowVal::owned(CelDouble::from(a / b))),
        None => Ok(CowVal::Owned(a.as_divider().ok_or_else(|| unsupported("/", a, b))?.div(b)?.into_owned())),
    }
}

fn pair<'a, 'b, 'v>(args: &'a Args<'b, 'v>) -> Result<(&'a (dyn Val + 'v), &'a (dyn Val + 'v)), ExecutionError> {
    match args.as_slice() {
        [a, b] => Ok((a.as_ref(), b.as_ref())),
        _ => Err(ExecutionError::missing_argument_or_target()),
    }
}

fn unsupported(operator: &'static str, a: &dyn Val, b: &dyn Val) -> ExecutionError {
    let value = |val: &dyn Val| Value::try_from(val).unwrap_or(Value::Null);
    ExecutionError::UnsupportedBinaryOperator(operator, value(a), value(b))
}

/// Both as doubles, when one is an int and the other a double.
fn mixed(a: &dyn Val, b: &dyn Val) -> Option<(f64, f64)> {
    let is_int = |val: &dyn Val| val.downcast_ref::<CelInt>().is_some();
    if is_int(a) == is_int(b) { None } else { Some((double(a)?, double(b)?)) }
}

#[expect(clippy::cast_precision_loss, reason = "integers in expressions are within the range that doubles hold exactly, or were computed")]
fn double(value: &dyn Val) -> Option<f64> {
    if let Some(int) = value.downcast_ref::<CelInt>() {
        return Some(*int.inner() as f64);
    }
    value.downcast_ref::<CelDouble>().map(|double| *double.inner())
}

/// Hands its argument on, but for an object the list of its keys, sorted: the library goes over them in an order that differs
/// from one evaluation to the next, and the key of a retry must be the key of the first.
fn in_order<'b, 'v>(mut args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let Some(value) = args.pop() else { return Err(ExecutionError::missing_argument_or_target()) };
    let keys = sorted_keys(value.as_ref());
    Ok(keys.map_or(value, CowVal::owned))
}

fn sorted_keys<'v>(value: &(dyn Val + 'v)) -> Option<CelList<'v>> {
    let mut keys: Vec<_> = value.downcast_ref::<CelMap<'_>>()?.keys().collect();
    keys.sort_unstable();
    Some(CelList::from(keys.into_iter().map(|key| key.inner().clone_as_boxed()).collect::<Vec<_>>()))
}

/// Hands its argument on, unless it holds a number that the facts could not convert without changing it.
fn read<'b, 'v>(mut args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let Some(value) = args.pop() else { return Err(ExecutionError::missing_argument_or_target()) };
    let found = if let Some(marker) = value.downcast_ref::<CelBytes<'_>>() {
        Some(String::from_utf8_lossy(marker.inner()).into_owned())
    } else {
        spoiled(&Value::try_from(&*value as &dyn Val).unwrap_or(Value::Null))
    };
    match found {
        Some(number) => Err(ExecutionError::function_error(
            READ_FUNCTION,
            format!("the number {number} cannot be read without changing it; send it as a string"),
        )),
        None => Ok(value),
    }
}

/// JSON has no bytes, so bytes among the facts are the text of such a number.
fn spoiled(value: &Value) -> Option<String> {
    match value {
        Value::Bytes(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Value::List(items) => items.iter().find_map(spoiled),
        Value::Map(map) => {
            let found = map.map.iter().filter_map(|(name, value)| Some((name, spoiled(value)?)));
            found.min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, number)| number)
        }
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::UInt(_)
        | Value::Float(_)
        | Value::String(_)
        | Value::Function(..)
        | Value::Opaque(_)
        | Value::Struct(_) => None,
    }
}
