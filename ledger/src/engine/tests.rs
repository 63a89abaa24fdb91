//! The engine over the memory journal: group commit, waiting, unknown fates, restarts.

mod agents;
mod answers;
mod gates;

use std::sync::atomic::{AtomicUsize, Ordering};

use kybernis_core::ids::{GateId, PersonId, RequestDigest, SpanId};
use kybernis_core::ksp::{KspEvent, SpanStart, SpanType};
use kybernis_core::machine::{Approval, DoubtCause, GateVerdict, Grant, KeyLevel, NotSentProof, Observation, Seen, SettleOutcome};

use super::*;
use crate::fixtures::*;
use crate::journal::{Append, Epoch, Fault, Head, MemoryJournal, Pending};

struct Rig {
    engine: Engine,
    journal: Arc<Counted>,
    _policy: watch::Sender<PolicyDigest>,
    _folder: tempfile::TempDir,
}

/// Counts appends: the group commits of a real store.
#[derive(Debug, Default)]
struct Counted {
    inner: MemoryJournal,
    appends: AtomicUsize,
    /// Drops of blobs that fail before one does not.
    failing_drops: AtomicUsize,
}

impl Journal for Counted {
    fn acquire(&self) -> Pending<'_, (Epoch, Head)> {
        self.inner.acquire()
    }

    fn append(&self, append: Append) -> Pending<'_, Head> {
        self.appends.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            // As long as a disk takes, so that callers gather meanwhile.
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.inner.append(append).await
        })
    }

    fn read(&self, after: u64, limit: u32) -> Pending<'_, Vec<Vec<u8>>> {
        self.inner.read(after, limit)
    }

    fn read_blobs(&self, key: &str) -> Pending<'_, Vec<Vec<u8>>> {
        self.inner.read_blobs(key)
    }

    fn blob_keys(&self, after: &str, limit: u32) -> Pending<'_, Vec<String>> {
        self.inner.blob_keys(after, limit)
    }

    fn drop_blobs(&self, keys: &[String]) -> Pending<'_, ()> {
        let fails = self.failing_drops.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if fails.is_ok() {
            return Box::pin(async { Err(JournalError::Unusable("the disk is tired".to_owned())) });
        }
        self.inner.drop_blobs(keys)
    }
}

async fn rig() -> Rig {
    rig_on(Arc::default(), tempfile::tempdir().unwrap()).await
}

async fn rig_on(journal: Arc<Counted>, folder: tempfile::TempDir) -> Rig {
    let vault = Arc::new(Vault::open(folder.path()).unwrap());
    let (policy, watch) = watch::channel(POLICY);
    let settings = Settings { tick: Duration::from_millis(5), ..Settings::default() };
    let (engine, _) = Engine::open(Arc::clone(&journal) as Arc<dyn Journal>, vault, watch, Observers::default(), settings).await.unwrap();
    Rig { engine, journal, _policy: policy, _folder: folder }
}

async fn granted(engine: &Engine, parts: DecideParts) -> Grant {
    match engine.decide(parts).await.unwrap() {
        DecideAnswer::Grant(grant) => grant,
        other => panic!("expected a grant, got {other:?}"),
    }
}

async fn refused(engine: &Engine, parts: DecideParts) -> Refuse {
    match engine.decide(parts).await.unwrap() {
        DecideAnswer::Refuse(refuse) => refuse,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn many_callers_share_one_commit() {
    let rig = rig().await;
    let calls = (0..64).map(|n| granted(&rig.engine, call(n, &format!("d-{n}"))));
    let grants = futures::future::join_all(calls).await;
    let distinct: std::collections::HashSet<_> = grants.iter().map(|grant| grant.effect.clone()).collect();
    assert_eq!(distinct.len(), 64);
    assert!(rig.journal.appends.load(Ordering::Relaxed) <= 4, "{} appends", rig.journal.appends.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_second_call_waits_for_the_first_and_gets_its_answer() {
    let rig = rig().await;
    let grant = granted(&rig.engine, call(1, "d-1")).await;
    let second = tokio::spawn({
        let engine = rig.engine.clone();
        async move { engine.decide(call(1, "d-2")).await.unwrap() }
    });
    while rig.engine.read(|state| state.last_ts()).await.is_err() {}
    rig.engine.settle(agent(), settle(&grant, completed()), Some(BODY.to_vec())).await.unwrap().unwrap();
    let DecideAnswer::Replay(replay) = second.await.unwrap() else { panic!("no replay") };
    assert_eq!((replay.answer.status, replay.span.as_str()), (201, "span-d-1"));
    let body = rig.engine.body(agent(), replay.effect, replay.fence).await.unwrap().unwrap().unwrap();
    assert_eq!(body.concat(), BODY);
}

#[tokio::test]
async fn patience_ends_in_effect_in_flight() {
    let rig = rig().await;
    granted(&rig.engine, call(1, "d-1")).await;
    let hasty = DecideParts { wait: Millis::new(30), ..call(1, "d-2") };
    let refuse = refused(&rig.engine, hasty).await;
    assert_eq!(refuse.code, Code::EffectInFlight);
    assert!(refuse.retry_after.is_some());
}

#[tokio::test]
async fn one_of_those_who_wait_gets_a_key_that_becomes_free() {
    let rig = rig().await;
    let first = granted(&rig.engine, call(1, "d-1")).await;
    let waiting: Vec<_> = (2..6)
        .map(|n| {
            let engine = rig.engine.clone();
            tokio::spawn(async move { engine.decide(DecideParts { wait: Millis::new(400), ..call(1, &format!("d-{n}")) }).await.unwrap() })
        })
        .collect();
    let refused = SettleOutcome::NotSent(NotSentProof::ConnectFailed);
    rig.engine.settle(agent(), settle(&first, refused), None).await.unwrap().unwrap();
    let answers = futures::future::join_all(waiting).await;
    let grants = answers.iter().filter(|answer| matches!(answer, Ok(DecideAnswer::Grant(grant)) if grant.fence.get() == 2)).count();
    let in_flight =
        |answer: &Result<DecideAnswer, _>| matches!(answer, Ok(DecideAnswer::Refuse(refuse)) if refuse.code == Code::EffectInFlight);
    assert_eq!((grants, answers.iter().filter(|answer| in_flight(answer)).count()), (1, 3));
}

#[tokio::test]
async fn an_append_of_unknown_fate_grants_once() {
    for fault in [Fault::LostBeforeCommit, Fault::LostAfterCommit] {
        let rig = rig().await;
        granted(&rig.engine, call(9, "d-0")).await;
        rig.journal.inner.inject(fault);
        let grant = granted(&rig.engine, call(1, "d-1")).await;
        assert_eq!(granted(&rig.engine, call(1, "d-1")).await, grant, "{fault:?}");
        let effects = rig.engine.read(|state| state.effects().count()).await.unwrap();
        assert_eq!(effects, 2, "{fault:?}");
        rig.journal.inner.inject(fault);
        let standing = rig.engine.settle(agent(), settle(&grant, completed()), Some(BODY.to_vec())).await.unwrap().unwrap();
        assert!(standing.stands, "{fault:?}");
        let body = rig.engine.body(agent(), grant.effect, grant.fence).await.unwrap().unwrap();
        assert_eq!(body.map(|chunks| chunks.concat()).as_deref(), Some(BODY), "{fault:?}");
    }
}

#[tokio::test]
async fn a_ledger_that_comes_back_knows_everything_it_acknowledged() {
    let Rig { engine, journal, _folder: folder, .. } = rig().await;
    let grant = granted(&engine, call(1, "d-1")).await;
    engine.settle(agent(), settle(&grant, completed()), Some(BODY.to_vec())).await.unwrap().unwrap();
    let open = granted(&engine, call(2, "d-2")).await;
    let before = engine.read(|state| state.run(&RunId::new("run-1").unwrap()).cloned()).await.unwrap();
    drop(engine);

    let rig = rig_on(journal, folder).await;
    assert_eq!(rig.engine.read(|state| state.run(&RunId::new("run-1").unwrap()).cloned()).await.unwrap(), before);
    assert!(matches!(rig.engine.decide(call(1, "d-3")).await.unwrap(), DecideAnswer::Replay(replay) if replay.effect == grant.effect));
    assert_eq!(granted(&rig.engine, call(2, "d-2")).await, open, "the same decision gets the same grant");
    let events = rig.engine.run_events(RunId::new("run-1").unwrap(), 1, 2).await.unwrap().unwrap();
    assert_eq!(events.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn a_deposed_owner_answers_nothing_more() {
    let rig = rig().await;
    let successor = rig_on(Arc::clone(&rig.journal), tempfile::tempdir().unwrap()).await;
    assert!(rig.engine.decide(call(1, "d-1")).await.is_err());
    granted(&successor.engine, call(1, "d-1")).await;
}

#[tokio::test]
async fn one_append_takes_no_more_spans_than_a_segment_holds() {
    let rig = rig().await;
    // What is granted opens the run that the spans are of.
    let grant = granted(&rig.engine, call(1, "d-1")).await;
    let run = rig.engine.read(move |state| state.effect(&grant.effect).map(|effect| effect.spec.run.clone())).await.unwrap().unwrap();
    let before = rig.journal.appends.load(Ordering::Relaxed);
    let spans = |n: usize| {
        let span = SpanId::new(&format!("span-{n}")).unwrap();
        let start = SpanStart::new(Timestamp::default(), run.clone(), span, SpanType::Http, "GET far/x");
        let boot = BootId::new(&format!("boot-{n}")).unwrap();
        rig.engine.spans(Spans { boot, agent: agent(), first_seq: 1, spans: vec![KspEvent::SpanStart(start)] })
    };
    let acked = futures::future::join_all((0..40).map(spans)).await;
    assert!(acked.into_iter().all(|through| through.unwrap() == 1));
    assert!(rig.journal.appends.load(Ordering::Relaxed) - before >= 3, "forty batches of spans in too few segments");
}

#[tokio::test]
async fn another_policy_in_force_is_stale_and_appends_nothing() {
    let rig = rig().await;
    let mut parts = call(1, "d-1");
    parts.decide.policy = PolicyDigest::from_bytes([8; 32]);
    assert_eq!(rig.engine.decide(parts).await.unwrap(), DecideAnswer::PolicyStale(POLICY));
    assert_eq!(rig.engine.read(|state| state.effects().count()).await.unwrap(), 0);
    let grant = granted(&rig.engine, call(1, "d-1")).await;
    let mut repeat = call(1, "d-1");
    repeat.decide.policy = PolicyDigest::from_bytes([8; 32]);
    assert_eq!(granted(&rig.engine, repeat).await, grant, "a repeat is answered from what was decided");
}

#[tokio::test]
async fn a_call_is_held_until_a_person_decides() {
    let rig = rig().await;
    let mut parts = DecideParts { hold: Millis::from_secs(20), ..call(1, "d-1") };
    let digest = RequestDigest::from_bytes([5; 32]);
    parts.decide.approval =
        Some(Approval { digest, required: 1, class: "desk".to_owned(), expires_after: Millis::from_secs(60), summary: "qty=1".to_owned() });
    let asked = {
        tokio::spawn({
            let engine = rig.engine.clone();
            async move { engine.decide(parts).await.unwrap() }
        })
    };
    let gate: GateId = loop {
        let gates = rig.engine.read(|state| state.gates().map(|gate| gate.spec.gate.clone()).collect::<Vec<_>>()).await.unwrap();
        if let Some(gate) = gates.into_iter().next() {
            break gate;
        }
        tokio::task::yield_now().await;
    };
    let word = |digest| DecideGate {
        gate: gate.clone(),
        digest: Some(digest),
        person: PersonId::new("local:ada").unwrap(),
        verdict: GateVerdict::Approve,
        reason: "ok".to_owned(),
        voucher: None,
    };
    let wrong = rig.engine.decide_gate(word(RequestDigest::from_bytes([6; 32]))).await.unwrap().unwrap_err();
    assert_eq!(wrong.code, Code::ApprovalMismatch);
    rig.engine.decide_gate(word(digest)).await.unwrap().unwrap();
    assert!(matches!(asked.await.unwrap(), DecideAnswer::Grant(grant) if grant.approval == Some(gate)));
}

#[tokio::test]
async fn a_boot_that_is_gone_leaves_its_effects_in_doubt() {
    let rig = rig().await;
    let mut short = call(1, "d-1");
    short.decide.lease = Millis::new(50);
    let grant = granted(&rig.engine, short).await;
    rig.engine.boot_gone(boot()).await.unwrap();
    loop {
        let id = grant.effect.clone();
        if rig.engine.read(move |state| state.effect(&id).unwrap().is_in_doubt()).await.unwrap() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(refused(&rig.engine, call(1, "d-2")).await.code, Code::EffectInDoubt);
}

#[tokio::test]
async fn a_run_that_is_forgotten_leaves_no_places_behind() {
    let journal = Arc::<Counted>::default();
    let run = RunId::new("run-1").unwrap();
    let long_ago = Event {
        ts: Timestamp::from_epoch_ms(1),
        fact: kybernis_core::machine::Fact::RunOpened { run: run.clone(), agent: agent(), explicit: true },
    };
    let (epoch, expected) = journal.acquire().await.unwrap();
    journal.append(Append { epoch, expected, events: index::encode(&[long_ago]), blobs: Vec::new() }).await.unwrap();
    let rig = rig_on(journal, tempfile::tempdir().unwrap()).await;
    loop {
        let id = run.clone();
        if rig.engine.read(move |state| state.run(&id).is_none()).await.unwrap() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(rig.engine.run_events(run, 0, 10).await.unwrap().unwrap(), []);
}

/// What a Decide reports of callers, beside what it asks.
fn read(grant: &Grant) -> Vec<Observation> {
    vec![Observation { effect: grant.effect.clone(), fence: grant.fence, seen: Seen::Read }]
}

#[tokio::test]
async fn what_a_decide_saw_counts_although_nobody_waits_for_its_answer() {
    // A caller that has left, a policy that has changed, a commit whose fate is unknown: none of them unmakes the report.
    for fault in [None, Some(Fault::LostBeforeCommit), Some(Fault::LostAfterCommit)] {
        let rig = rig().await;
        let left = granted(&rig.engine, call(1, "d-1")).await;
        rig.engine.settle(agent(), settle(&left, completed()), None).await.unwrap().unwrap();
        if let Some(fault) = fault {
            rig.journal.inner.inject(fault);
        }
        let (answer, gone) = oneshot::channel();
        drop(gone);
        let mut deserted = call(2, "d-2");
        deserted.decide.observed = read(&left);
        rig.engine.asks.send(Ask::decide(waiting::Waiting::new(deserted, answer))).await.unwrap();
        let id = left.effect.clone();
        assert!(rig.engine.read(move |state| state.effect(&id).unwrap().read).await.unwrap(), "{fault:?}");
        let effects = rig.engine.read(|state| state.effects().count()).await.unwrap();
        assert_eq!(effects, 1, "nobody waits for a grant: {fault:?}");
    }
    let rig = rig().await;
    let grant = granted(&rig.engine, call(1, "d-1")).await;
    rig.engine.settle(agent(), settle(&grant, completed()), None).await.unwrap().unwrap();
    let mut stale = call(2, "d-2");
    stale.decide.policy = PolicyDigest::from_bytes([8; 32]);
    stale.decide.observed = read(&grant);
    assert_eq!(rig.engine.decide(stale).await.unwrap(), DecideAnswer::PolicyStale(POLICY));
    assert!(rig.engine.read(move |state| state.effect(&grant.effect).unwrap().read).await.unwrap());
}
