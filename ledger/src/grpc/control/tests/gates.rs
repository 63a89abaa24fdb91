//! Gates out, and people's words on them in.

use kybernis_core::ids::{GateId, RequestDigest};
use kybernis_core::machine::{Event, Fact, Gate, GateVerdict, Grant, NotSentProof, SettleOutcome, State};
use kybernis_core::word::{KEY_LEN, Signer};
use kybernis_proto::{DecideAnswer, DecideParts, gate_state};
use tokio_util::sync::DropGuard;

use super::*;
use crate::board::CHANGES;
use crate::engine::Engine;
use crate::fixtures::{gated, settle};

const DESK: &str = "desk/trader/Deployment/trader";

impl Rig {
    async fn engine(&self, tenant: &str) -> Engine {
        self.control.tenants.of(&TenantId::new(tenant).unwrap()).await.unwrap().engine.clone()
    }

    async fn gates(&self) -> Gates {
        let watched = self.control.watch_gates(self.request(Role::Operator, v1::WatchGatesRequest {})).await.unwrap();
        Gates { stream: watched.into_inner(), _closes: self.closing.clone().drop_guard() }
    }

    async fn say(&self, request: v1::DecideGateRequest) -> Result<String, Status> {
        let reply = self.control.decide_gate(self.request(Role::Operator, request)).await?.into_inner();
        assert_eq!(reply.code.is_empty(), reply.detail.is_empty(), "{reply:?}");
        Ok(reply.code)
    }

    fn publish(&self, seeds: &[u8]) {
        *self.published.lock().unwrap() = Some(seeds.iter().map(|seed| *signer(*seed).public_key()).collect());
    }
}

/// What the operator is told, in short.
struct Gates {
    stream: Messages<v1::GateUpdate>,
    /// A test that fails ends the tenants' threads.
    _closes: DropGuard,
}

impl Gates {
    async fn next(&mut self) -> String {
        let message = tokio::time::timeout(Duration::from_secs(20), self.stream.next()).await.expect("nothing is told");
        match message.unwrap().unwrap().update.unwrap() {
            v1::gate_update::Update::Synced(_) => "synced".to_owned(),
            v1::gate_update::Update::Gate(gate) => {
                assert_eq!(gate.ended_at_ms.is_some(), !matches!(gate.phase(), v1::GatePhase::Pending | v1::GatePhase::Approved));
                let phase = gate.phase().as_str_name().trim_start_matches("GATE_PHASE_");
                format!("{} {} {phase} {}/{}", gate.tenant, gate.gate, gate.votes.len(), gate.required)
            }
        }
    }
}

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; KEY_LEN]).unwrap()
}

fn of_desk(mut parts: DecideParts) -> DecideParts {
    parts.decide.agent = AgentId::new(DESK).unwrap();
    parts.decide.policy = PolicySet::default().digest();
    parts
}

async fn opened(engine: &Engine, parts: DecideParts) -> GateId {
    match engine.decide(of_desk(parts)).await.unwrap() {
        DecideAnswer::Refuse(Refuse { gate: Some(gate), .. }) => gate,
        other => panic!("no gate: {other:?}"),
    }
}

async fn granted(engine: &Engine, parts: DecideParts) -> Grant {
    match engine.decide(of_desk(parts)).await.unwrap() {
        DecideAnswer::Grant(grant) => grant,
        other => panic!("no grant: {other:?}"),
    }
}

/// Whom its rule asks.
const CLASS: &str = "desk";

/// What `person` says of the gate whose request is `[1; 32]`, as admission signs it by key 1.
fn word(gate: &GateId, person: &str, verdict: GateVerdict) -> Word {
    Word {
        namespace: "desk".to_owned(),
        gate: gate.clone(),
        gate_uid: "6a4b".to_owned(),
        class: CLASS.to_owned(),
        digest: RequestDigest::from_bytes([1; 32]),
        verdict,
        reason: "checked".to_owned(),
        person: PersonId::new(person).unwrap(),
    }
}

fn request(word: &Word, signature: &str) -> v1::DecideGateRequest {
    let verdict = match word.verdict {
        GateVerdict::Approve => v1::GateVerdict::Approve,
        GateVerdict::Deny => v1::GateVerdict::Deny,
        GateVerdict::Executed => v1::GateVerdict::Executed,
        GateVerdict::NotExecuted => v1::GateVerdict::NotExecuted,
    };
    v1::DecideGateRequest {
        tenant: "trading".to_owned(),
        namespace: word.namespace.clone(),
        gate: word.gate.to_string(),
        gate_uid: word.gate_uid.clone(),
        digest: word.digest.as_bytes().to_vec(),
        verdict: verdict.into(),
        reason: word.reason.clone(),
        person: word.person.to_string(),
        signature: signature.to_owned(),
        class: word.class.clone(),
    }
}

fn signed(word: &Word) -> v1::DecideGateRequest {
    request(word, &signer(1).sign(word).to_string())
}

#[tokio::test]
async fn the_operator_sees_every_gate_and_then_each_change() {
    let rig = Rig::start();
    rig.publish(&[1]);
    for role in [Role::Sidecar, Role::Agent, Role::Approver, Role::Admin, Role::Auditor] {
        let refused = rig.control.watch_gates(rig.request(role, v1::WatchGatesRequest {})).await.map(drop);
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied, "{role:?}");
    }
    let engine = rig.engine("trading").await;
    let gate = opened(&engine, gated(1, "d-1", 1)).await;
    let mut told = rig.gates().await;
    assert_eq!(told.next().await, format!("trading {gate} PENDING 0/1"));
    assert_eq!(told.next().await, "synced");

    assert_eq!(rig.say(signed(&word(&gate, "ada", GateVerdict::Approve))).await.unwrap(), "");
    assert_eq!(told.next().await, format!("trading {gate} APPROVED 1/1"));
    let grant = granted(&engine, gated(1, "d-2", 1)).await;
    assert_eq!(told.next().await, format!("trading {gate} CONSUMED 1/1"));
    let not_sent = settle(&grant, SettleOutcome::NotSent(NotSentProof::ConnectFailed));
    engine.settle(AgentId::new(DESK).unwrap(), not_sent, None).await.unwrap().unwrap();
    assert_eq!(told.next().await, format!("trading {gate} APPROVED 1/1"), "given back");
    let two = opened(&engine, gated(1, "d-3", 2)).await;
    let both = [told.next().await, told.next().await];
    for expect in [format!("trading {gate} SUPERSEDED 1/1"), format!("trading {two} PENDING 0/2")] {
        assert!(both.contains(&expect), "{both:?}");
    }

    let mut short = gated(2, "d-4", 1);
    short.decide.approval.as_mut().unwrap().expires_after = kybernis_core::time::Millis::new(20);
    let other = opened(&rig.engine("another").await, short).await;
    assert_eq!(told.next().await, format!("another {other} PENDING 0/1"), "of a tenant that opened later");
    assert_eq!(told.next().await, format!("another {other} EXPIRED 0/1"));
}

#[tokio::test]
async fn after_a_restart_every_gate_is_known_at_once_as_it_stood() {
    let rig = Rig::start();
    rig.publish(&[1]);
    let gate = opened(&rig.engine("trading").await, gated(1, "d-1", 2)).await;
    rig.say(signed(&word(&gate, "ada", GateVerdict::Approve))).await.unwrap();
    rig.control.tenants.close().await;
    let Rig { folder, .. } = rig;
    let rig = Rig::over(folder);
    rig.control.tenants.open_all().await.unwrap();
    let mut told = rig.gates().await;
    assert_eq!([told.next().await, told.next().await], [format!("trading {gate} PENDING 1/2"), "synced".to_owned()]);
}

/// A state with so many gates.
fn state_of(gates: usize) -> State {
    let spec = |n: usize| kybernis_core::machine::GateSpec {
        gate: GateId::new(&format!("gate-{n}")).unwrap(),
        kind: kybernis_core::machine::GateKind::Approval,
        agent: AgentId::new(DESK).unwrap(),
        run: kybernis_core::ids::RunId::new("run-1").unwrap(),
        span: kybernis_core::ids::SpanId::new("span-1").unwrap(),
        tool: kybernis_core::ids::ToolName::new("orders").unwrap(),
        action: String::new(),
        summary: String::new(),
        digest: RequestDigest::from_bytes([1; 32]),
        policy: String::new(),
        required: 1,
        class: CLASS.to_owned(),
        expires_at: None,
        effect: None,
        keys: Vec::new(),
    };
    let mut state = State::default();
    let events = (0..gates).map(|n| Fact::GateOpened { gate: Box::new(spec(n)) });
    events.for_each(|fact| state.fold(&Event { ts: kybernis_core::time::Timestamp::from_epoch_ms(1), fact }));
    state
}

#[tokio::test]
async fn a_watcher_that_fell_behind_is_told_to_ask_again() {
    let rig = Rig::start();
    let mut told = rig.gates().await;
    let mut state = state_of(CHANGES + 1);
    let touched = state.take_touched_gates();
    rig.control.tenants.gates().of(TenantId::new("trading").unwrap()).tell(&state, touched, state.last_ts());
    assert_eq!(told.next().await, "synced");
    let lost = told.stream.next().await.unwrap().unwrap_err();
    assert_eq!((lost.code(), told.stream.next().await.is_none()), (Code::Aborted, true), "{lost}");
    let again: Vec<_> = rig.gates().await.stream.take(CHANGES + 2).collect().await;
    assert!(again.into_iter().all(|update| update.is_ok()), "all of them and synced");
}

#[tokio::test]
async fn a_gate_is_told_of_until_a_day_after_its_end() {
    let rig = Rig::start();
    let mut state = state_of(2);
    let mut teller = rig.control.tenants.gates().of(TenantId::new("trading").unwrap());
    let day = kybernis_core::time::Millis::from_secs(24 * 3600);
    let ended = kybernis_core::time::Timestamp::from_epoch_ms(1000);
    let expired = |n: usize| Fact::GateExpired { gate: GateId::new(&format!("gate-{n}")).unwrap() };
    state.fold(&Event { ts: ended, fact: expired(0) });
    let known = || rig.control.tenants.gates().watch().0.len();
    for (now, expect) in [(ended, 2), (ended.after(day), 2), (ended.after(day).after(kybernis_core::time::Millis::new(1)), 1)] {
        let touched = state.take_touched_gates();
        teller.tell(&state, touched, now);
        assert_eq!(known(), expect, "at {now:?}");
    }
    // One that was told of as open by a life before, and had its day since.
    state.fold(&Event { ts: ended, fact: expired(1) });
    let touched = state.take_touched_gates();
    teller.tell(&state, touched, ended.after(day).after(day));
    assert_eq!(known(), 0);
}

#[tokio::test]
async fn a_word_is_believed_by_admission_s_signature_alone_and_only_of_its_own_gate() {
    let rig = Rig::start();
    rig.publish(&[1, 3]);
    let engine = rig.engine("trading").await;
    let gate = opened(&engine, gated(1, "d-1", 1)).await;
    let good = word(&gate, "ada", GateVerdict::Approve);
    let signature = signer(1).sign(&good).to_string();
    let claims = |change: &dyn Fn(&mut v1::DecideGateRequest)| {
        let mut request = request(&good, &signature);
        change(&mut request);
        request
    };
    for (refused, expect, what) in [
        (request(&good, ""), "decision_unsigned", "unsigned"),
        (request(&good, "ed25519:no:signature"), "decision_unsigned", "no signature"),
        (request(&good, &signer(2).sign(&good).to_string()), "decision_unsigned", "a key that is not published"),
        (request(&good, &signature.replacen(signer(1).id().as_str(), signer(3).id().as_str(), 1)), "decision_unsigned", "another key"),
        (claims(&|r| r.person = "eve".to_owned()), "decision_unsigned", "another person"),
        (claims(&|r| r.verdict = v1::GateVerdict::Deny.into()), "decision_unsigned", "another verdict"),
        (claims(&|r| r.gate_uid = "6a4c".to_owned()), "decision_unsigned", "another object"),
        (claims(&|r| r.digest = vec![2; 32]), "decision_unsigned", "another request than was signed"),
        (claims(&|r| r.reason.clear()), "decision_unsigned", "another reason"),
        (claims(&|r| r.namespace = "vault".to_owned()), "decision_unsigned", "another namespace than was signed"),
        (claims(&|r| r.tenant = "another".to_owned()), "not_found", "another tenant"),
        (signed(&Word { namespace: "vault".to_owned(), ..good.clone() }), "not_found", "signed for another namespace"),
        (claims(&|r| r.class = "interns".to_owned()), "decision_unsigned", "another class than was signed"),
        (signed(&Word { class: "interns".to_owned(), ..good.clone() }), "not_found", "signed for another class"),
        (signed(&Word { gate: GateId::new("gate-9").unwrap(), ..good.clone() }), "not_found", "a gate that is not there"),
        (signed(&Word { digest: RequestDigest::from_bytes([2; 32]), ..good.clone() }), "approval_mismatch", "signed for another request"),
        (signed(&Word { verdict: GateVerdict::Executed, ..good.clone() }), "bad_request", "a verdict that does not fit"),
    ] {
        tokio::time::pause();
        assert_eq!(rig.say(refused).await.unwrap(), expect, "{what}");
        tokio::time::resume();
    }
    let look = gate.clone();
    assert_eq!(engine.read(move |state| state.gate(&look).unwrap().votes.len()).await.unwrap(), 0, "a word that is not taken is on record");
    for (bad, rule) in [
        (claims(&|r| r.verdict = 0), "verdict: "),
        (claims(&|r| r.digest.clear()), "digest: "),
        (claims(&|r| r.person.clear()), "person: "),
        (claims(&|r| r.tenant = "..".to_owned()), "tenant: "),
    ] {
        let status = rig.say(bad).await.unwrap_err();
        assert_eq!((status.code(), status.message().starts_with(rule)), (Code::InvalidArgument, true), "{status}");
    }
    for role in [Role::Sidecar, Role::Approver, Role::Admin] {
        let refused = rig.control.decide_gate(rig.request(role, signed(&good))).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{role:?}");
    }

    assert_eq!(rig.say(signed(&good)).await.unwrap(), "");
    // Whoever looks at the record later can check it again.
    let events = engine.run_events(kybernis_core::ids::RunId::new("run-1").unwrap(), 0, 100).await.unwrap().unwrap();
    let keys: PublicKeys = [*signer(1).public_key()].into_iter().collect();
    let vouched = events.into_iter().filter_map(|(_, event)| match event.fact {
        Fact::GateVoted { voucher: Some(voucher), .. } => Some(voucher),
        _ => None,
    });
    let vouched: Vec<_> = vouched.map(|voucher| (keys.verify(&good, &voucher.signature), voucher.gate_uid, voucher.namespace)).collect();
    assert_eq!(vouched, [(Ok(()), "6a4b".to_owned(), "desk".to_owned())]);
}

async fn phase(engine: &Engine, gate: &GateId) -> (String, usize) {
    let gate = gate.clone();
    engine.read(move |state| state.gate(&gate).map(|gate| (format!("{:?}", gate.phase), gate.votes.len())).unwrap()).await.unwrap()
}

#[tokio::test]
async fn people_are_counted_once_one_denial_denies_and_what_has_ended_takes_no_word() {
    let rig = Rig::start();
    rig.publish(&[1]);
    let engine = rig.engine("trading").await;
    let gate = opened(&engine, gated(1, "d-1", 2)).await;
    let approves = |person: &str| signed(&word(&gate, person, GateVerdict::Approve));
    for (said, expect) in [
        (approves("ada"), ("Pending", 1)),
        (approves("ada"), ("Pending", 1)),
        (signed(&Word { reason: "again".to_owned(), ..word(&gate, "ada", GateVerdict::Approve) }), ("Pending", 1)),
        (approves("bob"), ("Approved", 2)),
        (approves("bob"), ("Approved", 2)),
    ] {
        assert_eq!(rig.say(said).await.unwrap(), "");
        assert_eq!(phase(&engine, &gate).await, (expect.0.to_owned(), expect.1));
    }
    assert_eq!(rig.say(approves("eve")).await.unwrap(), "gate_closed");
    granted(&engine, gated(1, "d-2", 2)).await;
    assert_eq!(rig.say(approves("ada")).await.unwrap(), "", "a repeat changes nothing");
    assert_eq!(phase(&engine, &gate).await, ("Consumed".to_owned(), 2));

    let of_request = |key: u8, gate: &GateId, person: &str, verdict| {
        signed(&Word { digest: RequestDigest::from_bytes([key; 32]), ..word(gate, person, verdict) })
    };
    let denied = opened(&engine, gated(2, "d-3", 2)).await;
    assert_eq!(rig.say(of_request(2, &denied, "ada", GateVerdict::Approve)).await.unwrap(), "");
    assert_eq!(rig.say(of_request(2, &denied, "bob", GateVerdict::Deny)).await.unwrap(), "");
    assert_eq!(phase(&engine, &denied).await, ("Denied".to_owned(), 2));
    assert_eq!(rig.say(of_request(2, &denied, "eve", GateVerdict::Approve)).await.unwrap(), "gate_closed");

    let mut short = gated(3, "d-4", 1);
    short.decide.approval.as_mut().unwrap().expires_after = kybernis_core::time::Millis::new(1);
    let late = opened(&engine, short).await;
    while phase(&engine, &late).await.0 != "Expired" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(rig.say(of_request(3, &late, "ada", GateVerdict::Approve)).await.unwrap(), "gate_closed");
}

#[tokio::test]
async fn what_may_go_away_is_no_refusal() {
    let rig = Rig::start();
    let gate = opened(&rig.engine("trading").await, gated(1, "d-1", 1)).await;
    let approves = signed(&word(&gate, "ada", GateVerdict::Approve));
    let away = rig.say(approves.clone()).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable, "{away}");
    rig.publish(&[1]);
    assert_eq!(rig.say(approves.clone()).await.unwrap(), "", "the keys are there again");
    let engine = rig.engine("trading").await;
    assert_eq!(phase(&engine, &gate).await, ("Approved".to_owned(), 1));
}

#[test]
fn a_gate_s_message_says_all_that_an_object_needs() {
    let state = state_of(1);
    let gate: &Gate = state.gates().next().unwrap();
    let message = gate_state(&TenantId::new("trading").unwrap(), gate);
    assert_eq!((message.agent.as_str(), message.class.as_str(), message.digest), (DESK, CLASS, vec![1; 32]));
    assert_eq!((message.kind, message.opened_at_ms, message.ended_at_ms), (v1::GateKind::Approval.into(), 1, None));
}
