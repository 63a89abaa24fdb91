//! Whom decisions ask, in tests; and the keeper of their key, two replicas at a time.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kybernis_core::word::{PublicKeys, Signer};
use kybernis_crds::kinds;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::server::certificates::moment::Moment;
use crate::server::cluster::decisions::of;
use crate::server::decisions::Decisions;
use crate::server::decisions::authority::{Question, authority};
use crate::server::decisions::judge::May;
use crate::server::decisions::keys::keeper::{KeyKeeper, KeyStore};
use crate::server::decisions::keys::material::{Entries, public_keys};
use crate::server::decisions::keys::{Held, Signing};
use crate::server::review::Reason;
use crate::server::stored::{ClusterError, Stored, Written};

/// Nobody to ask, and no key.
pub(super) fn nobody() -> Decisions {
    let (authority, _) = authority();
    Decisions { authority, signing: Signing::default(), clock: now }
}

/// 2026-05-28T20:26:40Z.
fn now() -> Moment {
    Moment::from_millis(1_780_000_000_000)
}

/// What the API server knows of a case.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    /// By name.
    #[serde(default)]
    gates: BTreeMap<String, kinds::Gate>,
    /// Who may approve which class: `user namespace class`.
    #[serde(default)]
    may: Vec<String>,
    /// What an authorizer adds to its no.
    remark: Option<String>,
    /// Which questions nobody answers: gate, may, keys.
    #[serde(default)]
    away: Vec<String>,
    /// Of which byte this replica's seed is made.
    key: Option<u8>,
    /// Of which bytes the seeds are made whose keys are published.
    #[serde(default)]
    published: Vec<u8>,
}

fn signer(byte: u8) -> Signer {
    Signer::from_seed(&[byte; 32]).unwrap()
}

fn public(seeds: &[u8]) -> PublicKeys {
    seeds.iter().map(|byte| *signer(*byte).public_key()).collect()
}

impl Cluster {
    pub(super) fn start(&self) -> Decisions {
        let (authority, mut questions) = authority();
        let signing = Signing::default();
        if let Some(key) = self.key {
            signing.hold(Held { signer: signer(key), keys: public(&[key]), seen: Instant::now() });
        }
        let cluster = self.clone();
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                cluster.answer(question);
            }
        });
        Decisions { authority, signing, clock: now }
    }

    fn answer(&self, question: Question) {
        let is_away = |what: &str| self.away.iter().any(|away| away == what);
        let why = || "connection refused".to_owned();
        match question {
            Question::Gate { namespace, name, answer } => {
                assert_eq!(namespace, "trading");
                let found = if is_away("gate") { Err(why()) } else { Ok(self.gates.get(&name).cloned().map(of)) };
                let _ = answer.send(found);
            }
            Question::May { user, namespace, class, answer } => {
                let is_allowed = self.may.contains(&format!("{} {namespace} {class}", user.username));
                let may = May { is_allowed, remark: self.remark.clone() };
                let _ = answer.send(if is_away("may") { Err(why()) } else { Ok(may) });
            }
            Question::Keys { answer } => {
                let _ = answer.send(if is_away("keys") { Err(why()) } else { Ok(public(&self.published)) });
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_not_waited_for() {
    let (authority, _questions) = authority();
    let began = Instant::now();
    let refused = authority.gate("trading", "g").await.expect_err("nobody answers");
    assert_eq!(refused.reason, Reason::Unavailable);
    assert!(refused.message.contains("does not answer in time"), "{}", refused.message);
    assert!(began.elapsed() < Duration::from_secs(5), "two of them are within an API server's ten seconds");
}

/// A Secret and a ConfigMap in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Shelf>>);

#[derive(Default)]
struct Shelf {
    secret: Option<Stored>,
    config_map: Option<Stored<Entries>>,
    writes: u64,
    is_away: bool,
    /// The ConfigMap alone cannot be written.
    is_unwritable: bool,
    /// Another replica writes the Secret just before.
    overtaken_by: Option<[u8; 32]>,
}

impl Memory {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap()
    }

    fn reach(&self) -> Result<MutexGuard<'_, Shelf>, ClusterError> {
        let shelf = self.shelf();
        if shelf.is_away { Err(ClusterError { what: "memory".to_owned(), why: "away".to_owned() }) } else { Ok(shelf) }
    }

    fn published(&self) -> PublicKeys {
        self.shelf().config_map.as_ref().map(|stored| public_keys(&stored.bytes)).unwrap_or_default()
    }

    fn start(&self) -> (Signing, CancellationToken) {
        let (signing, closing) = (Signing::default(), CancellationToken::new());
        tokio::spawn(KeyKeeper { store: self.clone(), signing: signing.clone() }.run(closing.clone()));
        (signing, closing)
    }
}

fn swap<T: Clone>(slot: &mut Option<Stored<T>>, bytes: &T, over: Option<&Stored<T>>, writes: &mut u64) -> Written {
    if slot.as_ref().map(|stored| &stored.version) != over.map(|over| &over.version) {
        return Written::Conflict;
    }
    *writes += 1;
    *slot = Some(Stored { bytes: bytes.clone(), version: writes.to_string() });
    Written::Done
}

impl KeyStore for Memory {
    fn seed(&self) -> impl Future<Output = Result<Option<Stored>, ClusterError>> + Send {
        ready(self.reach().map(|shelf| shelf.secret.clone()))
    }

    fn write_seed(&self, seed: &[u8], over: Option<&Stored>) -> impl Future<Output = Result<Written, ClusterError>> + Send {
        ready(self.reach().map(|mut shelf| {
            let shelf = &mut *shelf;
            if let Some(other) = shelf.overtaken_by.take() {
                swap(&mut shelf.secret, &other.to_vec(), over, &mut shelf.writes);
            }
            swap(&mut shelf.secret, &seed.to_vec(), over, &mut shelf.writes)
        }))
    }

    fn published(&self) -> impl Future<Output = Result<Option<Stored<Entries>>, ClusterError>> + Send {
        ready(self.reach().map(|shelf| shelf.config_map.clone()))
    }

    fn publish(&self, entries: &Entries, over: Option<&Stored<Entries>>) -> impl Future<Output = Result<Written, ClusterError>> + Send {
        ready(self.reach().map(|mut shelf| {
            let shelf = &mut *shelf;
            if shelf.is_unwritable { Written::Conflict } else { swap(&mut shelf.config_map, entries, over, &mut shelf.writes) }
        }))
    }
}

async fn rounds() {
    tokio::time::sleep(Duration::from_secs(11)).await;
}

#[tokio::test(start_paused = true)]
async fn replicas_agree_on_one_key_that_is_published_before_it_signs() {
    for empty in [None, Some(Stored { bytes: Vec::new(), version: "0".to_owned() })] {
        let memory = Memory::default();
        memory.shelf().secret = empty;
        let replicas = [memory.start(), memory.start()];
        assert!(!replicas[0].0.is_ready(), "nothing has been written yet");
        rounds().await;
        let [one, other] = replicas.each_ref().map(|(signing, _)| signing.held().unwrap());
        assert_eq!(one.signer.id(), other.signer.id());
        assert!(memory.published().knows(one.signer.id()) && other.keys.knows(one.signer.id()));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_loses_takes_the_winners_key() {
    let memory = Memory::default();
    memory.shelf().overtaken_by = Some([9; 32]);
    let (signing, _closing) = memory.start();
    rounds().await;
    assert_eq!(signing.held().unwrap().signer.id(), signer(9).id());
    assert_eq!(memory.shelf().secret.as_ref().unwrap().bytes, [9; 32]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_published_signs_nothing() {
    let memory = Memory::default();
    memory.shelf().is_unwritable = true;
    let (signing, _closing) = memory.start();
    rounds().await;
    assert!(memory.shelf().secret.is_some() && !signing.is_ready(), "it is there, and nobody would believe it");
    memory.shelf().is_unwritable = false;
    rounds().await;
    let key = signing.held().unwrap().signer.id().clone();
    // Somebody empties the ConfigMap; others' entries are left as they are.
    let note = Entries::from([("note".to_owned(), "x".to_owned())]);
    memory.shelf().config_map = Some(Stored { bytes: note, version: "x".to_owned() });
    rounds().await;
    assert!(memory.published().knows(&key));
    assert!(memory.shelf().config_map.as_ref().unwrap().bytes.contains_key("note"));
}

#[tokio::test(start_paused = true)]
async fn deleting_the_secret_makes_a_new_key_and_the_old_one_is_still_believed() {
    let memory = Memory::default();
    let replicas = [memory.start(), memory.start()];
    rounds().await;
    let old = replicas[0].0.held().unwrap().signer.id().clone();
    for spoilt in [None, Some(Stored { bytes: b"spoilt".to_vec(), version: "y".to_owned() })] {
        let before = replicas[0].0.held().unwrap().signer.id().clone();
        memory.shelf().secret = spoilt;
        rounds().await;
        let [one, other] = replicas.each_ref().map(|(signing, _)| signing.held().unwrap());
        assert_ne!(one.signer.id(), &before);
        assert_eq!(one.signer.id(), other.signer.id());
        for key in [&old, &before, one.signer.id()] {
            assert!(one.keys.knows(key) && memory.published().knows(key));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_looked_at_is_not_used_for_long() {
    let memory = Memory::default();
    memory.shelf().is_away = true;
    let (signing, closing) = memory.start();
    rounds().await;
    let refused = signing.held().expect_err("there is none");
    assert_eq!(refused.reason, Reason::Unavailable);
    assert!(refused.message.starts_with("there is no key yet that signs decisions: memory: away."), "{}", refused.message);
    memory.shelf().is_away = false;
    rounds().await;
    assert!(signing.is_ready());
    memory.shelf().is_away = true;
    rounds().await;
    assert!(signing.is_ready(), "a short absence keeps nobody from deciding");
    tokio::time::sleep(Duration::from_secs(31)).await;
    let refused = signing.held().expect_err("it may have been deleted");
    assert!(refused.message.starts_with("the key that signs decisions has not been seen for 30 s: memory: away."), "{}", refused.message);
    closing.cancel();
}
