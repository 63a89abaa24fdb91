//! The keeper with everything but Kubernetes: two replicas on a paused clock, and a rotation under a load of requests.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::UnixTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{Client, SERVER_NAME, Trust, verifier};
use super::loopback::{start, trading};
use super::memory::Memory;
use crate::server::certificates::keeper::Keeper;
use crate::server::certificates::moment::Moment;
use crate::server::certificates::rotation::Lifetimes;
use crate::server::certificates::serving::Serving;
use crate::server::status::Status;

const SECOND: Duration = Duration::from_secs(1);

thread_local! {
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// 2026, and then as tokio's clock goes.
fn paused() -> Moment {
    let now = Instant::now();
    let start = START.get().unwrap_or(now);
    START.set(Some(start));
    Moment::from_millis(1_780_000_000_000).after(now.duration_since(start))
}

struct Replica {
    serving: Serving,
    status: Status,
    closing: CancellationToken,
}

fn replica(memory: &Memory, lifetimes: Lifetimes, clock: fn() -> Moment) -> Replica {
    let (serving, status, closing) = (Serving::default(), Status::default(), CancellationToken::new());
    let keeper = Keeper {
        cluster: memory.clone(),
        lifetimes,
        server_name: SERVER_NAME.to_owned(),
        serving: serving.clone(),
        status: status.clone(),
        changed: memory.watch(),
        clock,
    };
    tokio::spawn(keeper.run(closing.clone()));
    Replica { serving, status, closing }
}

/// Whether whoever knows the bundle as it was so long ago takes what the replica serves.
fn is_trusted(memory: &Memory, replica: &Replica, late: Duration) -> Result<(), String> {
    let Some(current) = replica.serving.current() else { return Err("nothing is served".to_owned()) };
    let verifier = verifier(&memory.bundle(late))?;
    let leaf = current.cert.first().ok_or("an empty chain")?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(paused().unix_seconds()));
    let name = SERVER_NAME.try_into().map_err(|_| "a bad name")?;
    verifier.verify_server_cert(leaf, &[], &name, &[], now).map(drop).map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn two_replicas_rotate_and_every_api_server_trusts_both_at_every_second() {
    let lifetimes = Lifetimes { authority: SECOND * 900, leaf: SECOND * 90, grace: SECOND * 10 };
    let memory = Memory::default();
    let mut replicas = [replica(&memory, lifetimes, paused), replica(&memory, lifetimes, paused)];
    tokio::time::sleep(SECOND * 12).await;
    let (mut authorities, mut leaves) = (BTreeSet::new(), BTreeSet::new());
    for second in 0..4000_u32 {
        match second % 800 {
            // The API server is away for a while, and one replica starts again.
            100 => memory.set_away(true),
            130 => memory.set_away(false),
            300 => {
                replicas[0].closing.cancel();
                replicas[0] = replica(&memory, lifetimes, paused);
                tokio::time::sleep(SECOND / 2).await;
            }
            // The Secret is deleted, then overwritten; who remembers writes it again.
            400 => memory.spoil_secret(None),
            450 => memory.spoil_secret(Some(b"{}")),
            _ => {}
        }
        tokio::time::sleep(SECOND).await;
        for (index, replica) in replicas.iter().enumerate() {
            for late in [Duration::ZERO, SECOND * 5, SECOND * 9] {
                assert_eq!(is_trusted(&memory, replica, late), Ok(()), "replica {index} at {second}, {late:?} late: {:?}", memory.kept());
            }
        }
        if let Some(leaf) = memory.kept().and_then(|kept| kept.state.leaf) {
            authorities.insert(leaf.by);
            leaves.insert(leaf.id);
        }
    }
    assert!(authorities.len() >= 6, "{authorities:?}");
    assert!(leaves.len() >= 60, "{leaves:?}");
    assert!(replicas.iter().all(|replica| replica.status.is_published() && replica.status.problem().is_none()));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_does_to_the_configurations_is_mended() {
    let memory = Memory::default();
    let replica = replica(&memory, Lifetimes::default(), paused);
    tokio::time::sleep(SECOND).await;
    let [wanted, ..] = memory.bundles();
    assert!(wanted.contains("BEGIN CERTIFICATE"));
    for (entry, bundle) in [(0, ""), (1, "-----BEGIN CERTIFICATE-----\n"), (2, "somebody's")] {
        memory.spoil(entry, bundle);
        tokio::time::sleep(SECOND).await;
        assert_eq!(memory.bundles(), std::array::from_fn(|_| wanted.clone()));
    }
    assert_eq!(replica.status.mended_total(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_away_is_told_and_tried_again() {
    let memory = Memory::default();
    memory.set_away(true);
    let replica = replica(&memory, Lifetimes::default(), paused);
    tokio::time::sleep(SECOND).await;
    assert_eq!(replica.status.problem().as_deref().map(String::as_str), Some("memory: away"));
    assert!(!replica.serving.is_ready() && !replica.status.is_published());
    memory.set_away(false);
    tokio::time::sleep(SECOND * 3).await;
    assert!(replica.serving.is_ready() && replica.status.is_published() && replica.status.problem().is_none());
}

/// The clock is the machine's, as that of TLS is; lifetimes are as short as whole seconds in certificates let them be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_refuses_nobody() {
    let lifetimes =
        Lifetimes { authority: Duration::from_millis(4500), leaf: Duration::from_millis(1500), grace: Duration::from_millis(500) };
    // How late API servers learn of a change; what is left of the grace time is for a busy machine.
    let late = Duration::from_millis(100);
    let memory = Memory::default();
    let servers = [start(trading()).await, start(trading()).await];
    for server in &servers {
        let keeper = Keeper {
            cluster: memory.clone(),
            lifetimes,
            server_name: SERVER_NAME.to_owned(),
            serving: server.serving.clone(),
            status: server.status.clone(),
            changed: memory.watch(),
            clock: Moment::now,
        };
        tokio::spawn(keeper.run(server.stop.clone()));
    }
    let is_begun = || servers.iter().all(|server| server.serving.is_ready()) && memory.bundle(late).contains("BEGIN");
    wait_for(is_begun).await;

    let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for (index, server) in servers.iter().enumerate() {
        let address = server.address;
        for is_kept in [true, false] {
            let (memory, stop, answered) = (memory.clone(), stop.clone(), Arc::clone(&answered));
            clients.spawn(async move {
                let trust = Trust::Late(memory, late);
                let mut client = Client::connect(address, trust.clone()).await?;
                while !stop.is_cancelled() {
                    if !is_kept {
                        client = Client::connect(address, trust.clone()).await?;
                    }
                    let (status, review) = client.inject().await?;
                    if status != 200 || review["response"]["allowed"] != true {
                        return Err(format!("server {index}: {status} {review}"));
                    }
                    answered.fetch_add(1, Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok::<_, String>(())
            });
        }
    }
    let mut authorities = BTreeSet::new();
    let mut is_done = || {
        authorities.extend(memory.kept().and_then(|kept| kept.state.leaf).map(|leaf| leaf.by));
        authorities.len() >= 3
    };
    let failed = tokio::select! {
        () = wait_for(&mut is_done) => None,
        failed = clients.join_next() => failed,
    };
    assert!(failed.is_none(), "{failed:?}");
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        assert_eq!(ended.unwrap(), Ok(()));
    }
    assert!(answered.load(Relaxed) > 100, "{answered:?}");
    for server in servers {
        server.end().await;
    }
}

async fn wait_for(mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SECOND * 60, held).await.expect("it comes to hold");
}
