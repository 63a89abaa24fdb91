//! What the writer tells of gates: what is durable, and all of it.

use super::*;
use crate::gates::Gates;

type Told = Vec<(GateId, usize)>;

/// The gates that are known, with the words on each.
fn known(gates: &Gates) -> Told {
    let mut known: Told = gates.watch().0.into_iter().map(|((_, id), gate)| (id, gate.votes.len())).collect();
    known.sort();
    known
}

async fn engine_on(journal: &Arc<Counted>, gates: &Gates) -> (Engine, watch::Sender<PolicyDigest>) {
    let folder = tempfile::tempdir().unwrap();
    let vault = Arc::new(Vault::open(folder.path()).unwrap());
    let (policy, watch) = watch::channel(POLICY);
    let tenant = kybernis_core::ids::TenantId::new("trading").unwrap();
    let journal = Arc::clone(journal) as Arc<dyn Journal>;
    let observers = Observers { gates: Some(gates.of(tenant)), ..Observers::default() };
    let (engine, _) = Engine::open(journal, vault, watch, observers, Settings::default()).await.unwrap();
    (engine, policy)
}

async fn asked(engine: &Engine, parts: DecideParts) -> GateId {
    refused(engine, parts).await.gate.unwrap()
}

fn approves(gate: &GateId, person: &str) -> DecideGate {
    let (gate, person) = (gate.clone(), PersonId::new(person).unwrap());
    DecideGate { gate, digest: None, person, verdict: GateVerdict::Approve, reason: String::new(), voucher: None }
}

#[tokio::test]
async fn a_gate_is_told_of_once_it_is_durable_and_never_before() {
    for fault in [Fault::LostBeforeCommit, Fault::LostAfterCommit] {
        let (journal, gates) = (Arc::<Counted>::default(), Gates::new());
        let (engine, _policy) = engine_on(&journal, &gates).await;
        let (_, mut changes) = gates.watch();
        journal.inner.inject(fault);
        // Where the first try is lost, the second makes a gate of another name: of the first nobody may ever hear.
        let gate = asked(&engine, gated(1, "d-1", 2)).await;
        assert_eq!(known(&gates), [(gate.clone(), 0)], "{fault:?}: whoever has the answer sees the gate");
        journal.inner.inject(fault);
        engine.decide_gate(approves(&gate, "ada")).await.unwrap().unwrap();
        assert_eq!(known(&gates), [(gate.clone(), 1)], "{fault:?}");
        let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).map(|((_, id), gate)| (id, gate.unwrap().votes.len())).collect();
        assert_eq!(told, [(gate.clone(), 0), (gate, 1)], "{fault:?}: each change once");
    }
}

#[tokio::test]
async fn an_engine_that_opens_has_told_of_all_its_gates() {
    let (journal, gates) = (Arc::<Counted>::default(), Gates::new());
    let (engine, policy) = engine_on(&journal, &gates).await;
    let (one, other) = (asked(&engine, gated(1, "d-1", 2)).await, asked(&engine, gated(2, "d-2", 1)).await);
    engine.decide_gate(approves(&other, "ada")).await.unwrap().unwrap();
    drop((engine, policy));
    let mut expect = [(one, 0), (other, 1)];
    expect.sort();
    let again = Gates::new();
    let _opened = engine_on(&journal, &again).await;
    assert_eq!(known(&again), expect);
    // Whoever has followed since before hears of nothing that it knows.
    let (_, mut changes) = gates.watch();
    let _opened = engine_on(&journal, &gates).await;
    assert_eq!((known(&gates).as_slice(), changes.try_recv().is_err()), (&expect[..], true));
}
