//! The fault matrix with its clients in pods: the same faults, clients and declarations as on a laptop, under Redirect. A namespace for
//! each set of manifests, a pod in each, and for every cell a broker of its own in the world outside.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use kybernis_broker::{Broker, Settings};
use kybernis_cluster::cache;
use kybernis_pods::{OUTSIDE, Space, Talk, Workload, World, programs, said, unheard_of};
use kybernis_scenarios::case::Speaks;
use kybernis_scenarios::declared::State;
use kybernis_scenarios::kit::Kit;
use kybernis_scenarios::manifests::Manifests;
use kybernis_scenarios::matrix::{self, Cell, Column, Declared, Done};
use kybernis_scenarios::run::{self, Capture, Observed, Recorded};
use kybernis_scenarios::table;

use crate::scenario::{Told, installed};

/// Cells side by side, in each of the four pods: they wait more than they work.
const WORKERS: usize = 3;
/// Of the whole matrix, what the scenarios have: each so-manieth cell. A prime, so that every fault and every client is among them.
const SAMPLE: usize = 11;
/// Cells between two lines of progress.
const TELL_EVERY: usize = 100;
/// How long the probe may take to find an order, after the client has ended.
const PROBING: Duration = Duration::from_secs(15);
/// Set for the matrix; names a part of the cells' names, and empty all of them.
pub(crate) const ONLY: &str = "KYB_E2E_MATRIX";
/// Where the pods have the clients' sources.
const SOURCES: &str = "/clients";
/// What the certificates of brokers name.
const HOST: &str = "broker.example.com";
/// Their ports, from here on, below those that the system gives away: none is used twice, since books tell cells apart by it.
const FIRST_PORT: u16 = 20_000;

/// What all cells share.
struct Rig<'w> {
    world: &'w World,
    kit: Kit,
    folder: &'w Path,
    ports: Mutex<HashMap<String, u16>>,
    next_port: AtomicU16,
    /// Brokers that are asked to the end.
    asked: Mutex<Vec<Broker>>,
}

/// All of it, or the part that the environment names.
pub(crate) fn in_pods(world: &World) -> Result<Told> {
    let only = std::env::var(ONLY).unwrap_or_default();
    run_cells(world, |_, cell| cell.to_string().contains(&only))
}

/// Some of it, as it goes by in seconds.
pub(crate) fn sample(world: &World) -> Result<Told> {
    run_cells(world, |at, _| at % SAMPLE == 0)
}

fn run_cells(world: &World, keep: impl Fn(usize, &Cell) -> bool + Sync) -> Result<Told> {
    installed(world)?;
    let start = Instant::now();
    let kit = Kit::install(&cache())?;
    let (in_pod, packages) = kit.in_pod(&cache(), Path::new(SOURCES))?;
    let folder = tempfile::tempdir()?;
    let space = |manifests: &Manifests| Ok((*manifests, space(world, &kit, &packages, *manifests)?));
    let spaces = Manifests::ALL.iter().map(space).collect::<Result<Vec<_>>>()?;
    for (_, space) in spaces.iter().filter(|(manifests, _)| *manifests != Manifests::None) {
        space.wait("toolregistration/broker-orders", "condition=Ready")?;
    }
    let rig =
        Rig { world, kit: in_pod, folder: folder.path(), ports: Mutex::default(), next_port: FIRST_PORT.into(), asked: Mutex::default() };
    let ended = AtomicUsize::new(0);
    let tell = |_: usize, _: &Done| {
        let ended = ended.fetch_add(1, Ordering::Relaxed) + 1;
        if ended.is_multiple_of(TELL_EVERY) {
            println!("{ended} cells, {:.0} s", start.elapsed().as_secs_f64());
        }
    };
    let mut done = std::thread::scope(|scope| {
        let columns =
            spaces.iter().map(|(manifests, space)| scope.spawn(|| rig.column(*manifests, space, &keep, tell))).collect::<Vec<_>>();
        let done = columns.into_iter().map(|column| column.join().map_err(|_| anyhow!("a thread panicked"))?);
        Ok::<_, anyhow::Error>(done.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>())
    })?;
    rig.read_books(&spaces, &mut done)?;
    told(&done.into_iter().map(|(_, done)| done).collect::<Vec<_>>(), start.elapsed())
}

/// A namespace with a set of manifests, and a pod that has the clients.
fn space<'w>(world: &'w World, kit: &Kit, packages: &Path, manifests: Manifests) -> Result<Space<'w>> {
    // A tenant of its own in every run: ledgers forget nothing, and every run places the same orders.
    let space = world.space(&unheard_of(&format!("matrix-{}", manifests.name().replace(' ', "-"))))?;
    said(space.kubectl(["create", "configmap", "clients", "--from-file"]).arg(kit.sources()))?;
    if let Some(objects) = manifests.text(HOST)? {
        space.create(&objects)?;
    }
    let [go, java] = kit.compiled();
    space.deploy(&Workload::new("matrix", "idle.py", &[]).files("clients", SOURCES).folder(go).folder(java).folder(packages))?;
    Ok(space)
}

impl Rig<'_> {
    /// All cells of a pod.
    fn column(
        &self,
        manifests: Manifests,
        space: &Space<'_>,
        keep: impl Fn(usize, &Cell) -> bool,
        tell: impl Fn(usize, &Done) + Sync,
    ) -> Result<Vec<(String, Done)>> {
        let agent = space.agent("matrix")?;
        let cells = matrix::cells(&[Column::Governed(Capture::Redirect, manifests)], |_| true);
        let cells: Vec<Cell> = cells.into_iter().enumerate().filter(|(at, cell)| keep(*at, cell)).map(|(_, cell)| cell).collect();
        let places: Vec<Mutex<Option<Talk>>> = (0..WORKERS).map(|_| Mutex::default()).collect();
        let run = |place: &Mutex<Option<Talk>>, at: usize, cell: &Cell, declared: &Declared| {
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            // One that broke took its cell with it, and not those after it.
            let mut runner = place.take().map_or_else(|| agent.talk("runner.py", &[]), Ok)?;
            let observed = self.run(&mut runner, &order(manifests, at), cell, declared)?;
            *place = Some(runner);
            Ok(observed)
        };
        let done = matrix::side_by_side(&cells, &places, run, tell);
        Ok(done.into_iter().enumerate().map(|(at, done)| (order(manifests, at), done)).collect())
    }

    fn run(&self, runner: &mut Talk, order: &str, cell: &Cell, declared: &Declared) -> Result<Observed> {
        let Column::Governed(_, manifests) = cell.column else { bail!("a cell without a sidecar") };
        // A thread for each worker: what it opens is in the world outside.
        self.world.cluster().enter_network()?;
        let broker = self.broker(cell.case.speaks)?;
        broker.honour_keys(manifests.broker_honours_keys());
        broker.script([cell.case.fault(order)])?;
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(order.to_owned(), broker.https_port());
        let words = run::words(&self.kit, cell.case, cell.client, order, &format!("https://{HOST}:{}", broker.https_port()));
        let printed = printed(runner, &words)?;
        if declared.state == Some(State::CompletedByProbe) {
            // That it was asked in vain shows in the ledger's books.
            let _ = broker.wait_until(PROBING, |now| now.requests.iter().any(|request| request.head.starts_with("GET /v1/orders?")));
            let observed = run::observed(&broker, order, printed, Vec::new());
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(broker);
            return Ok(observed);
        }
        let observed = run::observed(&broker, order, printed, Vec::new());
        broker.stop();
        Ok(observed)
    }

    fn broker(&self, speaks: Speaks) -> Result<Broker> {
        let (bind, https_port) = (OUTSIDE.parse()?, self.next_port.fetch_add(1, Ordering::Relaxed));
        let (http2, authority) = (speaks == Speaks::Http2, Some(self.world.authority()));
        let settings = Settings { bind, https_port, http2, authority, ..Settings::new(self.folder.join("ca.pem")) };
        Broker::start(settings).context("no broker")
    }

    /// Stops the ledger, and reads what it has of each cell; an effect's action names the port of its cell's broker.
    fn read_books(&self, spaces: &[(Manifests, Space<'_>)], done: &mut [(String, Done)]) -> Result<()> {
        self.world.scale("statefulset/kybernis-ledger", 0)?;
        let read = spaces.iter().map(|(_, space)| self.effects(space.name())).collect::<Result<Vec<_>>>();
        self.world.scale("statefulset/kybernis-ledger", 1)?;
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let effects: Vec<Recorded> = read?.into_iter().flatten().collect();
        for (order, cell) in done {
            if let (Ok(observed), Some(port)) = (&mut cell.observed, ports.get(order)) {
                let of = format!("{HOST}:{port}/");
                observed.effects = effects.iter().filter(|effect| effect.action.contains(&of)).cloned().collect();
            }
        }
        Ok(())
    }

    /// A tenant's books, as a laptop's ledger reads a folder of its own.
    fn effects(&self, tenant: &str) -> Result<Vec<Recorded>> {
        let claim = ["get", "persistentvolumeclaim/data-kybernis-ledger-0", "--output=jsonpath={.spec.volumeName}"];
        let volume = self.world.cluster().volume(&said(&mut self.world.kubectl_system(claim))?)?;
        let data = self.folder.join(tenant);
        // There are keys in it.
        DirBuilder::new().mode(0o700).create(&data)?;
        let books = volume.join("data/tenants").join(tenant);
        for file in std::fs::read_dir(&books).with_context(|| format!("cannot read {}", books.display()))? {
            let file = file?;
            std::fs::copy(file.path(), data.join(file.file_name()))?;
        }
        let mut effects = Command::new(programs()?.join("kybernis"));
        effects.args(["effects", "--output=json", "--data"]).arg(&data);
        serde_json::from_str(&said(&mut effects)?).context("the ledger's effects")
    }
}

/// The name of a cell's order.
fn order(manifests: Manifests, at: usize) -> String {
    format!("{}-{at}", manifests.name().replace(' ', "-"))
}

fn printed(runner: &mut Talk, words: &[OsString]) -> Result<run::Printed> {
    let words: Vec<&str> = words.iter().map(|word| word.to_str().context("a word that is no text")).collect::<Result<_>>()?;
    let said: String = serde_json::from_str(&runner.ask(&serde_json::to_string(&words)?)?)?;
    let line = said.lines().find_map(|line| serde_json::from_str(line).ok());
    line.with_context(|| format!("the client printed: {said}"))
}

fn told(done: &[Done], took: Duration) -> Result<Told> {
    println!("\n{}\n{}", table::render(done), table::totals(done));
    let mut wrong = 0;
    for cell in done {
        let mismatches = cell.mismatches();
        wrong += usize::from(!mismatches.is_empty());
        mismatches.iter().for_each(|mismatch| println!("{}: {mismatch}", cell.cell));
    }
    println!("{} cells as declared, {wrong} not, in {:.0} s", done.len() - wrong, took.as_secs_f64());
    ensure!(wrong == 0, "{wrong} of {} cells are not as declared", done.len());
    let executed: usize = done.iter().filter_map(|cell| cell.observed.as_ref().ok()).map(|observed| observed.executions).sum();
    Ok(Told::new("faults × clients, in pods under Redirect", format!("{} cells as declared, {executed} executions", done.len())))
}
