//! The matrix as a person reads it: a line for each fault and client, a column for each way to run.

use std::collections::BTreeMap;

use crate::client::Client;
use crate::declared::State;
use crate::manifests::Manifests;
use crate::matrix::{Column, Done};
use crate::run::Capture;

/// What the columns' shorthand means.
const LEGEND: &str =
    "Each cell: how often the far side executed the one order, and what the client was told. After it, what the ledger says:
  = completed   p completed, as the probe found   - rejected, the key is free   ? in doubt, and a person is asked
  ~ the client ignores proxy variables, so that capture Cooperative does not catch it   ! not as declared";

fn columns() -> Vec<(String, Column)> {
    let governed = |capture: Capture| {
        Manifests::ALL.map(move |manifests| {
            let name = if manifests == Manifests::None { capture.name() } else { "" };
            (format!("{name:<11} {}", manifests.name()), Column::Governed(capture, manifests))
        })
    };
    let bare = [("bare".to_owned(), Column::Bare)];
    bare.into_iter().chain(governed(Capture::Redirect)).chain(governed(Capture::Cooperative)).collect()
}

/// The whole table, without columns in which nothing ran.
pub fn render(done: &[Done]) -> String {
    let columns: Vec<_> = columns().into_iter().filter(|(_, column)| done.iter().any(|one| one.cell.column == *column)).collect();
    let mut rows: BTreeMap<(usize, Client), BTreeMap<Column, String>> = BTreeMap::new();
    let mut cases: Vec<&str> = Vec::new();
    for one in done {
        let name = one.cell.case.name;
        let at = cases.iter().position(|case| *case == name).unwrap_or_else(|| {
            cases.push(name);
            cases.len() - 1
        });
        rows.entry((at, one.cell.client)).or_default().insert(one.cell.column, shown(one));
    }
    let mut text = String::new();
    for (at, (fault, client)) in
        [("fault", "client")].into_iter().chain(rows.keys().map(|(at, client)| (cases[*at], client.name()))).enumerate()
    {
        text.push_str(&format!("{fault:<27} {client:<9}"));
        for (title, column) in &columns {
            let width = title.len().max(9);
            let cell = match at {
                0 => title.clone(),
                _ => rows.values().nth(at - 1).and_then(|row| row.get(column)).cloned().unwrap_or_else(|| "·".to_owned()),
            };
            text.push_str(&format!("  {cell:<width$}"));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text + "\n" + LEGEND + "\n"
}

/// One line for each way to run: what was ordered, and what the far side executed.
pub fn totals(done: &[Done]) -> String {
    let kind = |one: &Done| match one.cell.column {
        Column::Bare => "bare",
        Column::Governed(..) if one.cell.escapes() => "Cooperative, around it",
        Column::Governed(capture, _) => capture.name(),
    };
    let mut text = String::new();
    for name in ["bare", Capture::Redirect.name(), Capture::Cooperative.name(), "Cooperative, around it"] {
        let executions: Vec<usize> =
            done.iter().filter(|one| kind(one) == name).filter_map(|one| one.observed.as_ref().ok()).map(|seen| seen.executions).collect();
        if executions.is_empty() {
            continue;
        }
        let twice = executions.iter().filter(|count| **count > 1).count();
        text.push_str(&format!(
            "{name:<23} {:>5} orders meant, {:>5} executed, {twice:>4} of them more than once\n",
            executions.len(),
            executions.iter().sum::<usize>()
        ));
    }
    text
}

fn shown(done: &Done) -> String {
    let wrong = if done.mismatches().is_empty() { "" } else { " !" };
    let Ok(observed) = &done.observed else { return "!".to_owned() };
    let status = observed.printed.status.map_or_else(|| "err".to_owned(), |status| status.to_string());
    let ledger = match observed.effects.as_slice() {
        [] if done.cell.escapes() => " ~",
        [] => "",
        [one] => match one.state() {
            Some(State::Completed) => " =",
            Some(State::CompletedByProbe) => " p",
            Some(State::Rejected) => " -",
            Some(State::InDoubt) => " ?",
            None => " …",
        },
        _ => " ++",
    };
    format!("{} {status}{ledger}{wrong}", observed.executions)
}
