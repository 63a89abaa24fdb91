//! What a scenario is, how it is run, and the table at the end.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::{Result, anyhow};
use kybernis_pods::{Release, World, soon};
use libtest_mimic::{Arguments, Failed, Trial};

/// Its name, and what it does.
pub(crate) struct Scenario(pub(crate) &'static str, pub(crate) fn(&World) -> Result<Told>);

/// What was done to the cluster, and what the broker executed meanwhile.
pub(crate) struct Told {
    pub(crate) done: String,
    pub(crate) effects: String,
}

impl Told {
    pub(crate) fn new(done: &str, effects: impl Into<String>) -> Self {
        Self { done: done.to_owned(), effects: effects.into() }
    }
}

type Rows = Arc<Mutex<Vec<[String; 4]>>>;

/// Runs those that the command line selects, each to its end before the next, and exits.
pub(crate) fn run(scenarios: &'static [Scenario]) {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let (stage, rows) = (Arc::new(OnceLock::new()), Rows::default());
    let trials = scenarios.iter().map(|Scenario(name, act)| {
        let (stage, rows) = (Arc::clone(&stage), Arc::clone(&rows));
        // Ignored unless asked for: a plain `cargo test` has no cluster.
        Trial::test(*name, move || play(&stage, &rows, name, *act)).with_ignored_flag(true)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    print(&rows.lock().unwrap_or_else(PoisonError::into_inner));
    conclusion.exit();
}

fn play(stage: &OnceLock<Result<World, String>>, rows: &Rows, name: &str, act: fn(&World) -> Result<Told>) -> Result<(), Failed> {
    println!("{name} …");
    let start = Instant::now();
    let world = stage.get_or_init(|| World::set().map_err(|error| format!("the stage could not be set: {error:#}")));
    let told = world.as_ref().map_err(|error| anyhow!("{error}")).and_then(act);
    println!("{name}: {} in {:.1} s", if told.is_ok() { "held" } else { "BROKEN" }, start.elapsed().as_secs_f64());
    let row = match &told {
        Ok(told) => [name, &told.done, &told.effects, "held"].map(str::to_owned),
        Err(error) => [name, "", format!("{error}").lines().next().unwrap_or_default(), "BROKEN"].map(str::to_owned),
    };
    rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    told.map(drop).map_err(|error| format!("{error:#}").into())
}

fn print(rows: &[[String; 4]]) {
    if rows.is_empty() {
        return;
    }
    println!("\n| life scenario | what was done | effects executed | verdict |\n|---|---|---|---|");
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
}

/// Today's release, for a scenario that is run by itself; the first has left it.
pub(crate) fn installed(world: &World) -> Result<()> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| world.install(Release::Today).map_err(|error| format!("{error:#}")));
    done.clone().map_err(|error| anyhow!(error))
}

/// Waits until a ticker has placed some more orders, and counts them all.
pub(crate) fn goes_on(world: &World, name: &str) -> Result<usize> {
    let before = world.books()?.reached(name);
    soon(&format!("{name} has placed ten more orders than {before}"), || Ok((world.books()?.reached(name) >= before + 10).then_some(())))?;
    world.books()?.each_once(name)
}
