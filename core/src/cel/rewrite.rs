//! What is woven into every expression: fuel and a fixed order into each loop, and a check on each value that is read from the
//! facts.

use ::cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, operators};

/// Called before every loop step. Written with a character that no text can spell.
pub(super) const FUEL_FUNCTION: &str = "@fuel";

/// Called on every value read from the facts.
pub(super) const READ_FUNCTION: &str = "@read";

/// Called on what a loop goes over.
pub(super) const IN_ORDER_FUNCTION: &str = "@in_order";

/// `+` with int and double mixed; the other three likewise.
pub(super) const ADD_FUNCTION: &str = "@add";
pub(super) const SUBTRACT_FUNCTION: &str = "@subtract";
pub(super) const MULTIPLY_FUNCTION: &str = "@multiply";
pub(super) const DIVIDE_FUNCTION: &str = "@divide";

/// The function that stands for an operator, where CEL's own knows no mixed numbers.
fn mixing(operator: &str) -> Option<&'static str> {
    match operator {
        operators::ADD => Some(ADD_FUNCTION),
        operators::SUBSTRACT => Some(SUBTRACT_FUNCTION),
        operators::MULTIPLY => Some(MULTIPLY_FUNCTION),
        operators::DIVIDE => Some(DIVIDE_FUNCTION),
        _ => None,
    }
}

/// The same expression, metered and checked.
pub(super) fn guarded(node: IdedExpr) -> IdedExpr {
    wrap(inner(node))
}

/// Wraps what reads a value: a selection, an index or a loop variable. Only the end of a chain is wrapped, so that an
/// unreadable number spoils what reads it and not its neighbours.
fn wrap(node: IdedExpr) -> IdedExpr {
    let reads = match &node.expr {
        Expr::Select(select) => !select.test,
        Expr::Call(call) => is_access(call),
        Expr::Ident(_) => true,
        Expr::Unspecified | Expr::Comprehension(_) | Expr::List(_) | Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_) => false,
    };
    if reads { call(node.id, READ_FUNCTION, vec![node]) } else { node }
}

fn is_access(call: &CallExpr) -> bool {
    [operators::INDEX, operators::OPT_INDEX, operators::OPT_SELECT].contains(&call.func_name.as_str())
}

fn call(id: u64, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr { id, expr: Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }) }
}

fn inner(node: IdedExpr) -> IdedExpr {
    let id = node.id;
    let expr = match node.expr {
        Expr::Select(mut select) => {
            *select.operand = inner(*select.operand);
            Expr::Select(select)
        }
        Expr::Call(mut call) if is_access(&call) => {
            let mut args = call.args.into_iter();
            let operand = args.next().map(inner);
            call.args = operand.into_iter().chain(args.map(guarded)).collect();
            Expr::Call(call)
        }
        Expr::Call(mut call) => {
            // `optional.of(x)`: the target is a namespace, not a value.
            let namespace = matches!(call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if name == "optional");
            call.target = call.target.map(|target| Box::new(if namespace { *target } else { guarded(*target) }));
            call.args = call.args.into_iter().map(guarded).collect();
            if let Some(name) = mixing(&call.func_name) {
                name.clone_into(&mut call.func_name);
            }
            Expr::Call(call)
        }
        Expr::Comprehension(mut each) => {
            each.iter_range = call(id, IN_ORDER_FUNCTION, vec![guarded(each.iter_range)]);
            each.accu_init = guarded(each.accu_init);
            each.result = except(guarded(each.result), &each.accu_var);
            let condition = std::mem::take(&mut each.loop_cond);
            let step = std::mem::take(&mut each.loop_step);
            (each.loop_cond, each.loop_step) = metered(id, condition, step, &each.accu_var);
            Expr::Comprehension(each)
        }
        Expr::List(mut list) => {
            list.elements = list.elements.into_iter().map(guarded).collect();
            Expr::List(list)
        }
        Expr::Map(mut map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(pair) = &mut entry.expr {
                    pair.key = guarded(std::mem::take(&mut pair.key));
                    pair.value = guarded(std::mem::take(&mut pair.value));
                }
            }
            Expr::Map(map)
        }
        other @ (Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_)) => other,
    };
    IdedExpr { id, expr }
}

/// A loop's condition and step with fuel woven in.
///
/// The library appends in place where a step is `accu + [x]`, or a conditional of that and `accu`, under a literal condition;
/// anything else would copy the list at each step. So `map` and `filter` burn fuel in such a conditional, other loops in
/// their condition.
fn metered(id: u64, condition: IdedExpr, step: IdedExpr, accumulator: &str) -> (IdedExpr, IdedExpr) {
    let fuel = call(id, FUEL_FUNCTION, Vec::new());
    let is_accumulator = |node: &IdedExpr| matches!(&node.expr, Expr::Ident(name) if name == accumulator);
    let appended = |args: &[IdedExpr]| matches!(args, [list, item] if is_accumulator(list) && matches!(item.expr, Expr::List(_)));
    let appends = |node: &IdedExpr| matches!(&node.expr, Expr::Call(call) if call.func_name == operators::ADD && appended(&call.args));
    let append = |mut node: IdedExpr| {
        if let Expr::Call(add) = &mut node.expr {
            let args = std::mem::take(&mut add.args);
            add.args = args.into_iter().map(|arg| if is_accumulator(&arg) { arg } else { guarded(arg) }).collect();
        }
        node
    };
    if matches!(condition.expr, Expr::Literal(_)) {
        let unchanged = IdedExpr { id, expr: Expr::Ident(accumulator.to_owned()) };
        if appends(&step) {
            return (condition, call(id, operators::CONDITIONAL, vec![fuel, append(step), unchanged]));
        }
        if let Expr::Call(choice) = &step.expr
            && choice.func_name == operators::CONDITIONAL
            && let [wanted, then, _] = choice.args.as_slice()
            && appends(then)
        {
            let wanted = call(id, operators::LOGICAL_AND, vec![fuel, guarded(wanted.clone())]);
            return (condition, call(id, operators::CONDITIONAL, vec![wanted, append(then.clone()), unchanged]));
        }
    }
    // The accumulator is the loop's own: reading it needs no check, and checking it would cost a walk per step.
    let condition = except(guarded(condition), accumulator);
    (call(id, operators::LOGICAL_AND, vec![fuel, condition]), except(guarded(step), accumulator))
}

/// Takes the check off a variable again.
fn except(mut node: IdedExpr, variable: &str) -> IdedExpr {
    if let Expr::Call(outer) = &mut node.expr {
        let is_it = outer.func_name == READ_FUNCTION
            && matches!(outer.args.as_slice(), [IdedExpr { expr: Expr::Ident(name), .. }] if name == variable);
        if is_it && let Some(bare) = outer.args.pop() {
            return bare;
        }
        outer.args = std::mem::take(&mut outer.args).into_iter().map(|arg| except(arg, variable)).collect();
    }
    node
}
