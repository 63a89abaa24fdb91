//! What the broker has executed: the judge of every scenario.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The broker's executions at one instant: how often each order was executed, by the name that its client gave it.
#[derive(Clone, Debug)]
pub struct Books(BTreeMap<String, usize>);

impl Books {
    /// From the broker's journal.
    pub(crate) fn read(journal: &Value) -> Result<Self> {
        let mut books = BTreeMap::new();
        for executed in journal.as_array().context("the broker's journal is no list")? {
            let subject = executed["subject"].as_str().context("an execution without a subject")?;
            *books.entry(subject.to_owned()).or_default() += 1;
        }
        Ok(Self(books))
    }

    /// How often this order was executed.
    pub fn of(&self, order: &str) -> usize {
        self.0.get(order).copied().unwrap_or_default()
    }

    /// The one order whose name starts like this, if one was executed.
    pub fn found(&self, start: &str) -> Option<&str> {
        self.0.keys().map(String::as_str).find(|name| name.starts_with(start))
    }

    /// The highest number of those orders `NAME-1`, `NAME-2`, … that were executed.
    pub fn reached(&self, name: &str) -> usize {
        let number = |order: &String| order.strip_prefix(name)?.strip_prefix('-')?.parse::<usize>().ok();
        self.0.keys().filter_map(number).max().unwrap_or_default()
    }

    /// Counts the orders `NAME-1`, `NAME-2`, … of an agent that places each until it is answered, and then the next.
    ///
    /// # Errors
    /// When one was executed twice, or one was left out.
    pub fn each_once(&self, name: &str) -> Result<usize> {
        let reached = self.reached(name);
        for number in 1..=reached {
            let order = format!("{name}-{number}");
            let times = self.of(&order);
            ensure!(times == 1, "order {order} of {reached} was executed {times} times");
        }
        Ok(reached)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn books(orders: &[&str]) -> Books {
        let journal: Value = orders.iter().map(|order| json!({"subject": order})).collect();
        Books::read(&journal).unwrap()
    }

    #[test]
    fn what_was_executed_twice_or_left_out_is_named() {
        let check = |orders: &[&str], expect: Result<usize, &str>| {
            let counted = books(orders).each_once("a").map_err(|error| error.to_string());
            assert_eq!(counted, expect.map_err(str::to_owned));
        };
        check(&[], Ok(0));
        check(&["a-1", "a-2", "b-7"], Ok(2));
        check(&["a-1", "a-2", "a-1"], Err("order a-1 of 2 was executed 2 times"));
        check(&["a-1", "a-3"], Err("order a-2 of 3 was executed 0 times"));
    }
}
