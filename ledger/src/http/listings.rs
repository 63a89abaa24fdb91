//! What is read of the ledger, page by page; the same for everyone who may.

use kybernis_core::ids::{AgentId, RunId};
use kybernis_core::reason::Code;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::answer::{Answer, Failure, bad, ok};
use crate::engine::Engine;
use crate::views::{EffectView, EventView, GateView, RunView};

/// Items on one page unless the caller says less or more.
const PAGE: usize = 100;

/// Most items on one page; the rest follows under `next`.
const PAGE_MAX: usize = 1000;

/// Whose part of a tenant is shown.
#[derive(Clone, Debug)]
pub(crate) enum Within {
    /// Everybody's.
    Tenant,
    /// That of the agents of one namespace, where several share the tenant.
    Namespace(String),
}

impl Within {
    fn has(&self, agent: &AgentId) -> bool {
        match self {
            Self::Tenant => true,
            Self::Namespace(namespace) => agent.namespace() == namespace,
        }
    }
}

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    Runs,
    Effects,
    Gates,
}

impl Listing {
    const fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Effects => "effects",
            Self::Gates => "gates",
        }
    }

    /// One page of it.
    pub(crate) async fn read(self, engine: &Engine, within: Within, query: Page) -> Answer {
        let _place = PLACES.acquire().await;
        match self {
            Self::Runs => runs(engine, within, query).await,
            Self::Effects => effects(engine, within, query).await,
            Self::Gates => gates(engine, within, query).await,
        }
    }

    /// The page of a tenant that has nothing.
    pub(crate) fn empty(self, query: &Page) -> Answer {
        page(self, Vec::<()>::new(), query.after.as_deref(), query.limit()?)
    }
}

/// Listings at a time: each holds all that there is for as long as it sorts, and the writer while it looks.
static PLACES: Semaphore = Semaphore::const_new(2);

/// What narrows a listing. `after` is the `next` of the page before.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Page {
    run_id: Option<String>,
    status: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

impl Page {
    /// The same of this run alone.
    pub(crate) fn of_run(self, run: String) -> Self {
        Self { run_id: Some(run), ..self }
    }

    fn limit(&self) -> Result<usize, Failure> {
        match self.limit {
            None => Ok(PAGE),
            Some(limit @ 1..=PAGE_MAX) => Ok(limit),
            Some(other) => Err(bad("limit", format!("{other} is not within 1 and {PAGE_MAX}"))),
        }
    }
}

/// The newest first: pages by position in that order.
fn page<T: serde::Serialize>(listing: Listing, mut items: Vec<T>, after: Option<&str>, limit: usize) -> Answer {
    let skip = match after {
        None => 0,
        Some(text) => text.parse::<usize>().map_err(|_| bad("after", "is the `next` of the page before"))?,
    };
    let total = items.len();
    items.drain(..skip.min(total));
    items.truncate(limit);
    let next = (skip + items.len() < total).then(|| (skip + items.len()).to_string());
    ok(json!({listing.name(): items, "next": next}))
}

async fn runs(engine: &Engine, within: Within, query: Page) -> Answer {
    let mut runs = engine
        .read(move |state| {
            let runs = state.runs().filter(|(_, run)| within.has(&run.agent));
            runs.map(|(id, run)| RunView::new(id, run)).collect::<Vec<_>>()
        })
        .await?;
    runs.sort_by(|a, b| (&b.started_at, &b.run_id).cmp(&(&a.started_at, &a.run_id)));
    page(Listing::Runs, runs, query.after.as_deref(), query.limit()?)
}

/// One page of a run's events.
pub(crate) async fn events(engine: &Engine, within: Within, query: Page) -> Answer {
    let limit = query.limit()?;
    let run = query.run_id.ok_or_else(|| bad("run_id", "is missing"))?;
    let run = RunId::new(&run).map_err(|error| bad("run_id", error))?;
    let after = match &query.after {
        None => 0,
        Some(text) => text.parse::<u64>().map_err(|_| bad("after", "is the `next` of the page before"))?,
    };
    let known = {
        let run = run.clone();
        engine.read(move |state| state.run(&run).filter(|run| within.has(&run.agent)).map(|run| run.events)).await?
    };
    let Some(total) = known else {
        return Err(Failure::new(Code::NotFound, format!("There is no run {run}.")));
    };
    let events = match engine.run_events(run, after, limit).await? {
        Ok(events) => events,
        Err(error) => return Err(Failure::new(Code::LedgerUnavailable, error.to_string())),
    };
    let last = events.last().map_or(after, |(seq, _)| *seq);
    let views = events.iter().map(|(seq, event)| EventView::new(*seq, event));
    let views: Vec<_> = views.filter(|view| query.kind.as_ref().is_none_or(|kind| *kind == view.kind)).collect();
    let next = (last < total && !events.is_empty()).then(|| last.to_string());
    ok(json!({"events": views, "next": next}))
}

async fn effects(engine: &Engine, within: Within, query: Page) -> Answer {
    let (run, status, limit) = (query.run_id.clone(), query.status.clone(), query.limit()?);
    let fits = move |view: &EffectView| {
        run.as_ref().is_none_or(|run| view.run_id == *run) && status.as_ref().is_none_or(|status| view.state == *status)
    };
    let mut effects = engine
        .read(move |state| {
            let effects = state.effects().filter(|effect| within.has(&effect.spec.agent));
            effects.map(EffectView::new).filter(fits).collect::<Vec<_>>()
        })
        .await?;
    effects.sort_by(|a, b| (&b.granted_at, &b.effect_id).cmp(&(&a.granted_at, &a.effect_id)));
    page(Listing::Effects, effects, query.after.as_deref(), limit)
}

async fn gates(engine: &Engine, within: Within, query: Page) -> Answer {
    let (run, status, limit) = (query.run_id.clone(), query.status.clone(), query.limit()?);
    let fits = move |view: &GateView| {
        run.as_ref().is_none_or(|run| view.run_id == *run) && status.as_ref().is_none_or(|status| view.status == *status)
    };
    let mut gates = engine
        .read(move |state| {
            let gates = state.gates().filter(|gate| within.has(&gate.spec.agent));
            gates.map(GateView::new).filter(fits).collect::<Vec<_>>()
        })
        .await?;
    gates.sort_by(|a, b| (&b.opened_at, &b.gate_id).cmp(&(&a.opened_at, &a.gate_id)));
    page(Listing::Gates, gates, query.after.as_deref(), limit)
}
