//! All cells, side by side, each held against what was declared.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::case::{CASES, Case};
use crate::client::Client;
use crate::declared::{self, Answer, State};
use crate::manifests::Manifests;
use crate::run::{Capture, Observed, Place, Printed, Stage};

/// How a cell's client runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// On its own.
    Bare,
    /// Under `kybernis run`.
    Governed(Capture, Manifests),
}

/// One cell.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// What goes wrong.
    pub case: &'static Case,
    /// Who sends the order.
    pub client: Client,
    /// How it runs.
    pub column: Column,
}

/// What a cell must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// How often the far side executes.
    pub executions: usize,
    /// What the client is told.
    pub answer: Answer,
    /// What the ledger says; `None` where it knows nothing.
    pub state: Option<State>,
}

/// A cell that has run.
#[derive(Debug)]
pub struct Done {
    /// Which.
    pub cell: Cell,
    /// What it had to come to.
    pub declared: Declared,
    /// What it came to, or why it could not run.
    pub observed: Result<Observed>,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} · {} · ", self.case.name, self.client.name())?;
        match self.column {
            Column::Bare => f.write_str("bare"),
            Column::Governed(capture, manifests) => write!(f, "{} · {}", capture.name(), manifests.name()),
        }
    }
}

impl Cell {
    /// Whether this client, under this capture, goes around the sidecar.
    pub const fn escapes(&self) -> bool {
        matches!(self.column, Column::Governed(Capture::Cooperative, _)) && !self.client.habits().honours_proxy
    }

    /// What it must come to; `None` where there is no such cell.
    pub fn declared(&self) -> Option<Declared> {
        let alone = || {
            let bare = declared::bare(self.case, self.client)?;
            Some(Declared { executions: bare.executions, answer: bare.answer, state: None })
        };
        match self.column {
            Column::Bare => alone(),
            // That it escapes is the same whatever the manifests say.
            Column::Governed(_, manifests) if self.escapes() => alone().filter(|_| manifests == Manifests::None),
            Column::Governed(_, manifests) => {
                let governed = declared::governed(self.case, manifests, self.client);
                Some(Declared { executions: governed.executions, answer: governed.answer, state: Some(governed.state) })
            }
        }
    }

    fn run(&self, place: &Place<'_>, order: &str, declared: &Declared) -> Result<Observed> {
        match self.column {
            Column::Bare => place.bare(self.case, self.client, order),
            Column::Governed(capture, manifests) => place.governed(self.case, self.client, manifests, capture, order, declared.state),
        }
    }
}

impl Done {
    /// Everything that is not as declared.
    pub fn mismatches(&self) -> Vec<String> {
        let observed = match &self.observed {
            Ok(observed) => observed,
            Err(error) => return vec![format!("it could not run: {error:#}")],
        };
        let mut wrong = Vec::new();
        if observed.fired != 1 {
            wrong.push(format!("the fault struck {} times", observed.fired));
        }
        if observed.executions != self.declared.executions {
            wrong.push(format!("executed {} times, declared {}", observed.executions, self.declared.executions));
        }
        if !fits(self.declared.answer, &observed.printed) {
            wrong.push(format!("the client ended with {:?}, declared {:?}", observed.printed, self.declared.answer));
        }
        let recorded: Vec<_> = observed.effects.iter().map(|effect| effect.state()).collect();
        let wanted: Vec<_> = self.declared.state.map(Some).into_iter().collect();
        if recorded != wanted {
            wrong.push(format!("the ledger says {:?}, declared {:?}", observed.effects, self.declared.state));
        }
        wrong
    }
}

fn fits(declared: Answer, printed: &Printed) -> bool {
    match declared {
        Answer::Status(status) => printed.status == Some(status),
        Answer::Doubt => matches!(printed.status, Some(423 | 410)),
        Answer::Broken => printed.status.is_none() && printed.error.is_some(),
    }
}

/// Every cell of the columns that `wanted` wants.
pub fn cells(columns: &[Column], wanted: impl Fn(&Cell) -> bool) -> Vec<Cell> {
    let rows = CASES.iter().flat_map(|case| Client::ALL.map(move |client| (case, client)));
    rows.flat_map(|(case, client)| columns.iter().map(move |column| Cell { case, client, column: *column }))
        .filter(|cell| cell.declared().is_some() && wanted(cell))
        .collect()
}

/// Runs cells side by side, `jobs` at a time, and tells of each as it ends.
///
/// # Errors
/// When there are no brokers to be had.
pub fn run(stage: &Stage, cells: &[Cell], jobs: usize, told: impl Fn(usize, &Done) + Sync) -> Result<Vec<Done>> {
    let places = (0..jobs.max(1)).map(|_| Place::take(stage)).collect::<Result<Vec<_>>>()?;
    Ok(side_by_side(cells, &places, |place, at, cell, declared| cell.run(place, &format!("order-{at}"), declared), told))
}

/// Runs cells in places, each of which does one at a time, and tells of each as it ends.
pub fn side_by_side<P: Sync>(
    cells: &[Cell],
    places: &[P],
    run: impl Fn(&P, usize, &Cell, &Declared) -> Result<Observed> + Sync,
    told: impl Fn(usize, &Done) + Sync,
) -> Vec<Done> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = |place: &P| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((cell, declared)) = cells.get(at).and_then(|cell| Some((*cell, cell.declared()?))) else { return };
            let observed = run(place, at, &cell, &declared);
            let cell = Done { cell, declared, observed };
            told(at, &cell);
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, cell));
        }
    };
    std::thread::scope(|scope| {
        for place in places {
            scope.spawn(|| work(place));
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, cell)| cell).collect()
}
