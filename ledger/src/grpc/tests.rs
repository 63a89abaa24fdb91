//! The service as sidecars reach it, without a network: whose boots are, what spans may be, messages that are cut short.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use kybernis_core::ids::{PersonId, TenantId};
use kybernis_core::policy::PolicySet;
use kybernis_proto::v1::ledger_client::LedgerClient;
use kybernis_proto::v1::ledger_server::LedgerServer;
use tonic::Code;
use tonic::body::Body;

use super::boot::BOOT_MAX;
use super::*;
use crate::auth::Role;
use crate::engine::Settings;
use crate::journal::{Journal as _, MemoryJournal};

struct Rig {
    journal: Arc<MemoryJournal>,
    server: LedgerServer<Service>,
    engine: Engine,
    tokens: Arc<TokenKey>,
    policy: Vec<u8>,
    _sources: (watch::Sender<InForce>, watch::Sender<kybernis_core::ids::PolicyDigest>, tempfile::TempDir),
}

impl Rig {
    async fn start(journal: Arc<MemoryJournal>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = Arc::new(Vault::open(folder.path()).unwrap());
        let tokens = Arc::new(TokenKey::open(folder.path()).unwrap());
        let set = InForce::new(&PolicySet::default(), BTreeMap::new()).unwrap();
        let policy = set.digest.as_bytes().to_vec();
        let (digests, digest) = watch::channel(set.digest);
        let (sets, set) = watch::channel(set);
        let opened = Engine::open(Arc::clone(&journal) as Arc<_>, Arc::clone(&vault), digest, Settings::default()).await;
        let (engine, _) = opened.unwrap();
        let service = Service::new(engine.clone(), vault, Arc::clone(&tokens), set, CancellationToken::new());
        Self { journal, server: LedgerServer::new(service), engine, tokens, policy, _sources: (sets, digests, folder) }
    }

    /// The sidecar of an agent.
    fn sidecar(&self, agent: &str) -> LedgerClient<Wire> {
        self.sidecar_over(agent, |bytes| bytes)
    }

    /// The same over a wire that changes what it says.
    fn sidecar_over(&self, agent: &str, change: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> LedgerClient<Wire> {
        let workload = Workload {
            agent: AgentId::new(agent).unwrap(),
            run: RunId::new(&format!("run-{agent}")).unwrap(),
            explicit_run: false,
            labels: BTreeMap::new(),
            instance: format!("pod-{agent}"),
        };
        let claims = Claims {
            role: Role::Sidecar,
            tenant: TenantId::new("default").unwrap(),
            subject: PersonId::new("sidecar").unwrap(),
            workload: Some(workload),
            expires: 4_000_000_000,
        };
        let authorization = format!("Bearer {}", self.tokens.mint(&claims));
        LedgerClient::new(Wire { server: self.server.clone(), authorization, change: Arc::new(change) })
    }

    /// A Decide on the one key that all agents share.
    fn decide(&self, run: &str, boot: &str) -> v1::DecideRequest {
        v1::DecideRequest {
            boot: boot.to_owned(),
            decision: "d-1".to_owned(),
            run: run.to_owned(),
            span: "span-1".to_owned(),
            tool: "orders".to_owned(),
            action: "POST broker.test/v1/orders".to_owned(),
            level: v1::KeyLevel::Tool.into(),
            keys: vec![vec![1; 32]],
            meaning: vec![2; 32],
            principal: vec![3; 32],
            derived: v1::DerivedMode::Default.into(),
            retention_ms: 60_000,
            policy: self.policy.clone(),
            attempt: 1,
            lease_ms: 30_000,
            ..Default::default()
        }
    }
}

/// Calls the service directly, as this bearer.
#[derive(Clone)]
struct Wire {
    server: LedgerServer<Service>,
    authorization: String,
    change: Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>,
}

impl tonic::codegen::Service<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { mut server, authorization, change } = self.clone();
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            head.headers.insert("authorization", authorization.parse().unwrap());
            let bytes = axum::body::to_bytes(axum::body::Body::new(body), usize::MAX).await.unwrap();
            let body = Body::new(axum::body::Body::from(change(bytes.to_vec())));
            server.call(http::Request::from_parts(head, body)).await
        })
    }
}

fn granted(reply: Response<v1::DecideReply>) -> v1::Grant {
    match reply.into_inner().answer.unwrap() {
        v1::decide_reply::Answer::Grant(grant) => grant,
        other => panic!("expected a grant, got {other:?}"),
    }
}

fn not_sent(boot: &str, grant: &v1::Grant) -> v1::SettleRequest {
    let proof = v1::NotSentProof::ConnectFailed.into();
    v1::SettleRequest {
        boot: boot.to_owned(),
        effect: grant.effect.clone(),
        fence: grant.fence,
        outcome: Some(v1::settle_request::Outcome::NotSent(v1::NotSent { proof })),
        ..Default::default()
    }
}

fn batch(boot: &str, run: &str, attributes: &str) -> v1::SpanBatch {
    let span = format!(
        r#"{{"event_type":"SPAN_END","ksp_version":"ksp.v1","ts":"2026-01-01T00:00:00Z","run_id":"{run}","span_id":"s","status":"ok","latency_ms":3,"attributes":{attributes}}}"#
    );
    v1::SpanBatch { boot: boot.to_owned(), first_seq: 1, spans: vec![span.into_bytes()] }
}

async fn stream(client: &mut LedgerClient<Wire>, batch: v1::SpanBatch) -> Result<Option<v1::SpanAck>, Status> {
    client.stream_spans(futures::stream::iter([batch])).await?.into_inner().message().await
}

fn renew(boot: &str, grant: &v1::Grant) -> v1::RenewRequest {
    let leases = vec![v1::Lease { effect: grant.effect.clone(), fence: grant.fence }];
    v1::RenewRequest { boot: boot.to_owned(), leases, lease_ms: 30_000, observed: Vec::new() }
}

fn abandon(boot: &str) -> v1::AbandonRequest {
    v1::AbandonRequest { boot: boot.to_owned(), decision: "d-1".to_owned() }
}

async fn spans_through(client: &mut LedgerClient<Wire>, boot: &str) -> u64 {
    let request = v1::RegisterRequest { boot: boot.to_owned(), capture: "Cooperative".to_owned() };
    client.register(request).await.unwrap().into_inner().spans_through
}

#[tokio::test]
async fn nobody_speaks_for_another_agent_s_boot() {
    let rig = Rig::start(Arc::default()).await;
    let (mut trader, mut thief) = (rig.sidecar("trader"), rig.sidecar("thief"));
    let grant = granted(trader.decide(rig.decide("run-trader", "boot-1")).await.unwrap());

    let answer = thief.decide(rig.decide("run-thief", "boot-1")).await.unwrap().into_inner().answer;
    let Some(v1::decide_reply::Answer::Refusal(refusal)) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, "effect_in_flight", "another agent's grant is handed out");
    thief.abandon(abandon("boot-1")).await.unwrap();
    assert_eq!(thief.renew(renew("boot-1", &grant)).await.unwrap().into_inner().lost.len(), 1, "another agent's lease is renewed");
    assert_eq!(trader.renew(renew("boot-1", &grant)).await.unwrap().into_inner().lost, [], "another agent's decision is given up");

    assert_eq!(stream(&mut thief, batch("boot-1", "run-thief", "{}")).await.unwrap(), Some(v1::SpanAck { through: 1 }));
    assert_eq!(spans_through(&mut trader, "boot-1").await, 0, "another agent's spool is counted on");
    assert_eq!(spans_through(&mut thief, "boot-1").await, 1);

    // A new boot of the thief's says that its own last one is over, whatever that was called.
    assert_eq!(spans_through(&mut thief, "boot-2").await, 0);
    let effect = EffectId::new(&grant.effect).unwrap();
    let is_left = rig.engine.read(move |state| state.effect(&effect).unwrap().caller_gone).await.unwrap();
    assert!(!is_left, "another agent's callers are said to be gone");
    trader.abandon(abandon("boot-1")).await.unwrap();
    assert_eq!(trader.renew(renew("boot-1", &grant)).await.unwrap().into_inner().lost.len(), 1);
}

#[tokio::test]
async fn what_a_spool_delivers_after_a_restart_still_names_its_boot() {
    let rig = Rig::start(Arc::default()).await;
    let boot = "b".repeat(BOOT_MAX);
    let grant = granted(rig.sidecar("trader").decide(rig.decide("run-trader", &boot)).await.unwrap());
    let again = Rig::start(Arc::clone(&rig.journal)).await;
    let mut later = again.sidecar("trader");
    assert_eq!(granted(later.decide(again.decide("run-trader", &boot)).await.unwrap()), grant);
    assert!(later.settle(not_sent(&boot, &grant)).await.unwrap().into_inner().stands);
}

#[test]
fn a_boot_that_is_no_name_is_refused_by_field_and_rule() {
    let agent = AgentId::new("trader").unwrap();
    let check = |text: &str, rule: &str| {
        let status = own_boot(&agent, text).unwrap_err();
        assert_eq!((status.code(), status.message().starts_with("boot: ")), (Code::InvalidArgument, true), "{status}");
        assert!(status.message().contains(rule), "{status}");
    };
    check("", "is empty");
    check("a b", "position 1");
    check(&"b".repeat(BOOT_MAX + 1), "at most 95 are allowed");
}

fn nested(levels: usize) -> String {
    format!(r#"{{"a":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

async fn chain(rig: &Rig) -> (u64, kybernis_core::ids::ChainHash) {
    rig.engine.read(|state| state.run(&RunId::new("run-trader").unwrap()).map(|run| (run.events, run.head)).unwrap()).await.unwrap()
}

#[tokio::test]
async fn every_span_that_is_taken_can_be_read_again_from_the_journal() {
    let reserved = |name: &str| format!(r#"{{"a":{{"a":1,"$serde_json::private::{name}":"x"}}}}"#);
    let hidden = format!(r#"{{"a":{{"$serde_json::private::RawValue":{}}}}}"#, serde_json::Value::from(format!("[{}]", nested(100))));
    let floats = noise(1).take(1000).map(f64::from_bits).filter(|float| float.is_finite()).map(|float| format!("{float:e}"));
    let floats = format!(r#"{{"a":[{}]}}"#, floats.collect::<Vec<_>>().join(","));
    let hostile = (0..128).map(nested).chain([reserved("RawValue"), reserved("Number"), hidden, floats]);
    let rig = Rig::start(Arc::default()).await;
    let mut taken = 0;
    for (nth, attributes) in hostile.enumerate() {
        if stream(&mut rig.sidecar("trader"), batch(&format!("boot-{nth}"), "run-trader", &attributes)).await.is_ok() {
            taken += 1;
        }
    }
    let before = chain(&rig).await;
    assert_eq!(before.0, 1 + taken);
    assert_eq!(chain(&Rig::start(Arc::clone(&rig.journal)).await).await, before, "a span is read as another than was chained");
    assert_eq!(taken, 18, "flat, sixteen levels, and numbers");
}

#[test]
fn a_span_beyond_its_bounds_is_refused_by_place_and_rule() {
    let check = |attributes: &str, rule: &str| {
        let status = spans(batch("boot-1", "run-1", attributes), AgentId::new("trader").unwrap()).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("spans[0]: ") && status.message().contains(rule), "{status}");
    };
    check(&nested(17), r#"the attribute "a" is nested deeper than 16"#);
    check(&nested(200), "not KSP v1: recursion limit exceeded");
    check(r#"{"a":{"$serde_json::x":1}}"#, r#"the attribute "a" has a member whose name begins with $serde_json::"#);
    check(&format!(r#"{{"a":"{}"}}"#, "x".repeat(256 * 1024)), "at most 262144 are allowed");
    check("7", "not KSP v1: invalid type");
}

/// The same numbers each time (xorshift64).
fn noise(mut seed: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    })
}

/// Every call that could be journaled, over a wire that spoils it.
async fn say_everything(rig: &Rig, change: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) {
    let mut client = rig.sidecar_over("trader", change);
    let grant = v1::Grant { effect: "eff-1".to_owned(), fence: 1, ..Default::default() };
    client.decide(rig.decide("run-trader", "boot-1")).await.unwrap_err();
    client.settle(not_sent("boot-1", &grant)).await.unwrap_err();
    client.renew(renew("boot-1", &grant)).await.unwrap_err();
    client.abandon(abandon("boot-1")).await.unwrap_err();
    client.enter_run(v1::EnterRunRequest { run: "run-1".to_owned() }).await.unwrap_err();
    assert!(!matches!(stream(&mut client, batch("boot-1", "run-trader", "{}")).await, Ok(Some(_))));
    let report = v1::ProbeReport { boot: "boot-1".to_owned(), effect: grant.effect, fence: 1, asked_at_ms: 1, ..Default::default() };
    client.report_probe(report).await.unwrap_err();
}

#[tokio::test]
async fn a_message_that_is_cut_short_or_garbage_appends_nothing() {
    let rig = Rig::start(Arc::default()).await;
    for at in 0..300 {
        say_everything(&rig, move |mut bytes| {
            bytes.truncate(at.min(bytes.len() - 1));
            bytes
        })
        .await;
    }
    for seed in 1..=100 {
        // The length holds, what it spans is noise.
        say_everything(&rig, move |mut bytes| {
            bytes[5..].iter_mut().zip(noise(seed)).for_each(|(byte, noise)| *byte = noise.to_le_bytes()[7]);
            bytes
        })
        .await;
    }
    assert_eq!(rig.journal.read(0, 1).await.unwrap(), [] as [Vec<u8>; 0]);
    // The same whole is taken, so nothing else was wrong with it.
    granted(rig.sidecar("trader").decide(rig.decide("run-trader", "boot-1")).await.unwrap());
}
