//! Where runs, effects and gates are read: from a ledger on this machine, or from a cluster's by way of its API server. What is made of
//! them for people is one code.

use serde_json::Value;

/// As many items as a ledger gives on one page.
const PAGE: usize = 1000;

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing<'r> {
    /// Every run.
    Runs,
    /// Every effect.
    Effects,
    /// Every gate.
    Gates,
    /// The events of one run.
    Events(&'r str),
}

impl Listing<'_> {
    /// The member of a page that holds its items; also what the command that lists them is called.
    pub(crate) const fn items(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Effects => "effects",
            Self::Gates => "gates",
            Self::Events(_) => "events",
        }
    }
}

/// A ledger that can be read.
pub(crate) trait Source {
    /// What a person types to get at it.
    const PROGRAM: &'static str;

    /// Where a listing is found; with a query, where its place is in one.
    fn place(&self, listing: Listing<'_>) -> String;

    /// One page, out of its envelope.
    async fn page(&self, place: &str) -> anyhow::Result<Value>;

    /// Every item of a listing. `query` is `name=value&…` of names alone, which need no escaping.
    async fn list(&self, listing: Listing<'_>, query: &str) -> anyhow::Result<Vec<Value>> {
        let place = self.place(listing);
        let mark = if place.contains('?') { '&' } else { '?' };
        let and = if query.is_empty() { "" } else { "&" };
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let mut page = self.page(&format!("{place}{mark}{query}{and}limit={PAGE}{after}")).await?;
            if let Some(Value::Array(more)) = page.get_mut(listing.items()).map(Value::take) {
                all.extend(more);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(all),
            }
        }
    }

    /// The one item whose id begins with `start`.
    async fn one(&self, listing: Listing<'_>, id: &str, start: &str) -> anyhow::Result<Value> {
        let all = self.list(listing, "").await?;
        pick(all, id, start).map_err(|why| {
            // Decided gates are listed only when they are asked for, and may be meant all the same.
            let command = if listing == Listing::Gates { "gates --all" } else { listing.items() };
            anyhow::anyhow!("{why}; `{} {command}` lists what there is", Self::PROGRAM)
        })
    }
}

fn pick(all: Vec<Value>, id: &str, start: &str) -> anyhow::Result<Value> {
    let named = |item: &Value| item.get(id).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(exact) = all.iter().find(|item| named(item) == start) {
        return Ok(exact.clone());
    }
    let mut fits: Vec<Value> = all.into_iter().filter(|item| named(item).starts_with(start)).collect();
    match (fits.pop(), fits.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => anyhow::bail!("nothing is called {start:?}"),
        (Some(_), others) => anyhow::bail!("{start:?} could be any of {}: give more of the id", others + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::json;

    use super::*;

    /// Gives two items, one on each page.
    struct TwoPages {
        asked: RefCell<Vec<String>>,
    }

    impl Source for TwoPages {
        const PROGRAM: &'static str = "kyb";

        fn place(&self, listing: Listing<'_>) -> String {
            match listing {
                Listing::Events(run) => format!("/events?run={run}"),
                _ => format!("/{}", listing.items()),
            }
        }

        async fn page(&self, place: &str) -> anyhow::Result<Value> {
            self.asked.borrow_mut().push(place.to_owned());
            let last = place.contains("after=1");
            let next = (!last).then_some("1");
            let items = json!([{"run_id": if last { "b" } else { "a" }}]);
            Ok(json!({"runs": items, "events": items, "next": next}))
        }
    }

    #[tokio::test]
    async fn pages_are_turned_to_the_end() {
        let source = TwoPages { asked: RefCell::default() };
        assert_eq!(source.list(Listing::Runs, "").await.unwrap().len(), 2);
        assert_eq!(source.list(Listing::Events("r"), "type=x").await.unwrap().len(), 2);
        let asked = source.asked.borrow();
        let expect =
            ["/runs?limit=1000", "/runs?limit=1000&after=1", "/events?run=r&type=x&limit=1000", "/events?run=r&type=x&limit=1000&after=1"];
        assert_eq!(*asked, expect);
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_with_the_command_that_lists_what_is() {
        let source = TwoPages { asked: RefCell::default() };
        assert_eq!(source.one(Listing::Runs, "run_id", "b").await.unwrap()["run_id"], "b");
        let error = source.one(Listing::Runs, "run_id", "c").await.unwrap_err();
        assert_eq!(error.to_string(), "nothing is called \"c\"; `kyb runs` lists what there is");
    }

    #[test]
    fn the_beginning_of_an_id_is_enough_where_it_is_one_thing_s() {
        let all = || vec![json!({"run_id": "abc"}), json!({"run_id": "abd"}), json!({"run_id": "ab"})];
        assert_eq!(pick(all(), "run_id", "abc").unwrap()["run_id"], "abc");
        assert_eq!(pick(all(), "run_id", "ab").unwrap()["run_id"], "ab", "a whole id is no beginning");
        assert!(pick(all(), "run_id", "a").unwrap_err().to_string().contains("any of 3"));
        assert!(pick(all(), "run_id", "x").unwrap_err().to_string().contains("nothing is called \"x\""));
    }
}
