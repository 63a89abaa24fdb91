//! The service as sidecars reach it, without a network: whose boots are, what spans may be, messages that are cut short.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use kybernis_core::ids::{AgentId, PersonId};
use kybernis_core::policy::PolicySet;
use kybernis_proto::v1::effect_answer::Answer;
use kybernis_proto::v1::effect_ask::Ask;
use kybernis_proto::v1::ledger_client::LedgerClient;
use kybernis_proto::v1::ledger_server::LedgerServer;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::body::Body;

use super::boot::BOOT_MAX;
use super::*;
use crate::auth::{Claims, Role, TokenKey};
use crate::engine::{Engine, Observers, Settings};
use crate::journal::{Journal as _, MemoryJournal};
use crate::vault::Vault;

struct Rig {
    journal: Arc<MemoryJournal>,
    server: LedgerServer<Service>,
    engine: Engine,
    tokens: Arc<TokenKey>,
    policy: Vec<u8>,
    closing: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start(journal: Arc<MemoryJournal>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = Arc::new(Vault::open(folder.path()).unwrap());
        let tokens = Arc::new(TokenKey::open(folder.path()).unwrap());
        let set = InForce::new(&PolicySet::default(), BTreeMap::new()).unwrap();
        let policy = set.digest.as_bytes().to_vec();
        let closing = CancellationToken::new();
        let (tenant, _) =
            Tenant::over(Arc::clone(&journal) as Arc<_>, vault, Observers::default(), Settings::default(), closing.clone()).await.unwrap();
        tenant.program(set);
        let engine = tenant.engine.clone();
        let service = Service::new(Auth::Key(Arc::clone(&tokens)), Tenants::One(tenant), Fleet::new());
        Self { journal, server: LedgerServer::new(service), engine, tokens, policy, closing, _folder: folder }
    }

    /// The sidecar of an agent.
    fn sidecar(&self, agent: &str) -> LedgerClient<Wire> {
        self.sidecar_over(agent, |bytes| bytes)
    }

    /// Puts the agent's questions to the engine as they come, until the token runs out.
    fn exchange(&self, agent: &str, expires: u64) -> (futures::channel::mpsc::UnboundedSender<v1::EffectAsk>, Exchange) {
        let (asks, queue) = futures::channel::mpsc::unbounded();
        let agent = AgentId::new(agent).unwrap();
        (asks, Exchange::new(self.engine.clone(), agent, expires, queue.map(Ok).boxed(), self.closing.clone()))
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

/// One question on a stream of its own.
trait Asks {
    async fn ask(&mut self, ask: Ask) -> Result<Answer, Status>;

    async fn decide(&mut self, request: v1::DecideRequest) -> Result<v1::DecideReply, Status> {
        match self.ask(Ask::Decide(request)).await? {
            Answer::Decide(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    async fn settle(&mut self, request: v1::SettleRequest) -> Result<v1::SettleReply, Status> {
        match self.ask(Ask::Settle(request)).await? {
            Answer::Settle(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }
}

impl Asks for LedgerClient<Wire> {
    async fn ask(&mut self, ask: Ask) -> Result<Answer, Status> {
        let asks = futures::stream::iter([v1::EffectAsk { number: 7, ask: Some(ask) }]);
        let answer = self.effects(asks).await?.into_inner().message().await?;
        match answer.and_then(|answer| answer.answer) {
            Some(Answer::Failure(failure)) => Err(Status::new(failure.code.into(), failure.message)),
            answer => answer.ok_or_else(|| Status::unknown("no answer")),
        }
    }
}

fn granted(reply: v1::DecideReply) -> v1::Grant {
    match reply.answer.unwrap() {
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
    v1::SpanBatch { boot: boot.to_owned(), first_seq: 1, spans: vec![span.into()] }
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

    let answer = thief.decide(rig.decide("run-thief", "boot-1")).await.unwrap().answer;
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
    assert!(later.settle(not_sent(&boot, &grant)).await.unwrap().stands);
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

#[tokio::test]
async fn the_run_of_a_pod_that_has_done_nothing_yet_is_that_pod_s_all_the_same() {
    let rig = Rig::start(Arc::default()).await;
    let (mut trader, mut other) = (rig.sidecar("trader"), rig.sidecar("other"));
    let registering = v1::RegisterRequest { boot: "boot-1".to_owned(), ..Default::default() };
    trader.register(registering).await.unwrap();
    let enter = |run: &str| v1::EnterRunRequest { run: run.to_owned() };
    let refusal = other.enter_run(enter("run-trader")).await.unwrap().into_inner().refusal.unwrap();
    assert_eq!(refusal.code, "run_foreign");
    assert!(trader.enter_run(enter("run-trader")).await.unwrap().into_inner().refusal.is_none());
    assert!(other.enter_run(enter("run-of-its-own")).await.unwrap().into_inner().refusal.is_none());
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

async fn next(exchange: &mut Exchange) -> (u64, Answer) {
    let answer = exchange.next().await.unwrap().unwrap();
    (answer.number, answer.answer.unwrap())
}

fn code_of(answer: &Answer) -> Code {
    match answer {
        Answer::Failure(failure) => failure.code.into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_decision_that_waits_holds_up_no_other_question() {
    let rig = Rig::start(Arc::default()).await;
    let (asks, mut exchange) = rig.exchange("trader", u64::MAX);
    let ask = |number: u64, ask: Ask| asks.unbounded_send(v1::EffectAsk { number, ask: Some(ask) }).unwrap();
    let again = |decision: &str| v1::DecideRequest { decision: decision.to_owned(), wait_ms: 60_000, ..rig.decide("run-trader", "boot-1") };
    ask(1, Ask::Decide(rig.decide("run-trader", "boot-1")));
    let (1, Answer::Decide(first)) = next(&mut exchange).await else { panic!("not the grant") };
    let grant = granted(first);
    // Both meet the flight of the first.
    ask(2, Ask::Decide(again("d-2")));
    ask(3, Ask::Decide(again("d-3")));
    ask(3, Ask::Settle(not_sent("boot-1", &grant)));
    let (number, answer) = next(&mut exchange).await;
    assert_eq!((number, code_of(&answer)), (3, Code::InvalidArgument), "a number was taken twice");
    ask(4, Ask::Decide(v1::DecideRequest { tool: String::new(), ..again("d-4") }));
    let (number, answer) = next(&mut exchange).await;
    assert_eq!((number, code_of(&answer)), (4, Code::InvalidArgument));
    // Nobody waits for the second any more, so the key is the third's.
    ask(2, Ask::GiveUp(v1::GiveUp {}));
    ask(5, Ask::Settle(not_sent("boot-1", &grant)));
    let mut answers = [next(&mut exchange).await, next(&mut exchange).await];
    answers.sort_by_key(|(number, _)| *number);
    let [(3, Answer::Decide(third)), (5, Answer::Settle(settled))] = answers else { panic!("{answers:?}") };
    assert_eq!((granted(third).fence, settled.stands), (grant.fence + 1, true));
    drop(asks);
    assert!(exchange.next().await.is_none());
}

#[tokio::test]
async fn a_ledger_that_stops_leaves_decisions_that_wait_to_its_successor() {
    let rig = Rig::start(Arc::default()).await;
    let (asks, mut exchange) = rig.exchange("trader", u64::MAX);
    let ask = |number: u64, ask: Ask| asks.unbounded_send(v1::EffectAsk { number, ask: Some(ask) }).unwrap();
    ask(1, Ask::Decide(rig.decide("run-trader", "boot-1")));
    let (1, Answer::Decide(first)) = next(&mut exchange).await else { panic!("not the grant") };
    let second = v1::DecideRequest { decision: "d-2".to_owned(), wait_ms: 60_000, ..rig.decide("run-trader", "boot-1") };
    ask(2, Ask::Decide(second));
    assert!(futures::poll!(exchange.next()).is_pending(), "the second does not wait for the first");
    rig.closing.cancel();
    // What was not read by then is not taken either.
    ask(3, Ask::Settle(not_sent("boot-1", &granted(first))));
    assert!(exchange.next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_opened_it() {
    let rig = Rig::start(Arc::default()).await;
    let (asks, mut exchange) = rig.exchange("trader", crate::auth::now());
    asks.unbounded_send(v1::EffectAsk { number: 1, ask: Some(Ask::Decide(rig.decide("run-trader", "boot-1"))) }).unwrap();
    assert_eq!(exchange.next().await.unwrap().unwrap_err().code(), Code::Unauthenticated);
    assert!(exchange.next().await.is_none());
    assert_eq!(rig.journal.read(0, 1).await.unwrap(), [] as [Vec<u8>; 0]);
}

#[tokio::test]
async fn a_sidecar_that_asks_without_end_is_told_so_and_still_settles() {
    let rig = Rig::start(Arc::default()).await;
    let (asks, mut exchange) = rig.exchange("trader", u64::MAX);
    let ask = |number: u64, ask: Ask| asks.unbounded_send(v1::EffectAsk { number, ask: Some(ask) }).unwrap();
    ask(0, Ask::Decide(rig.decide("run-trader", "boot-1")));
    let (0, Answer::Decide(first)) = next(&mut exchange).await else { panic!("not the grant") };
    let most = u64::try_from(super::exchange::UNANSWERED_MAX).unwrap();
    for number in 1..=most + 1 {
        let decide = v1::DecideRequest { decision: format!("d-{number}"), wait_ms: 60_000, ..rig.decide("run-trader", "boot-1") };
        ask(number, Ask::Decide(decide));
    }
    let (number, answer) = next(&mut exchange).await;
    assert_eq!((number, code_of(&answer)), (most + 1, Code::Unavailable));
    ask(most + 2, Ask::Settle(not_sent("boot-1", &granted(first))));
    while next(&mut exchange).await.0 != most + 2 {}
}
