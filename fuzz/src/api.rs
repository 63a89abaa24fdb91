//! The `/infra` API, tokens, and what the vault opens: every request is answered in the envelope, pages end, and nothing
//! opens that was not sealed here.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kybernis_core::ids::{AgentId, PersonId, TenantId};
use kybernis_core::json::Json;
use kybernis_core::policy::PolicySet;
use kybernis_core::reason::Code;
use kybernis_ledger::auth::{Claims, Role, TokenKey};
use kybernis_ledger::journal::MemoryJournal;
use kybernis_ledger::vault::Vault;
use kybernis_proto::{decide_request, v1};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::input::{choice, runtime, some_texts};

/// A token that outlives the tests.
const EXPIRES: u64 = 4_000_000_000;

/// `g` path and query, `d` body of a gate's decision, `h` Authorization, `t` token, `c` claims, `v` sealed text, `b` sealed body.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    let [first] = some_texts(rest);
    match kind {
        b'g' => read(first),
        b'd' => decide(rest),
        b'h' => {
            let admitted = runtime().block_on(kybernis_ledger::fuzz::admits(Arc::clone(&LEDGER.tokens), first));
            assert!(!admitted, "a forged token is admitted");
        }
        b't' => assert!(LEDGER.tokens.verify(first).is_err(), "a forged token is taken"),
        b'c' => claims(first),
        b'v' => assert!(LEDGER.vault.open_text("probe", first).is_err(), "what was never sealed opens"),
        b'b' => {
            let chunks: Vec<Vec<u8>> = crate::input::fields(rest).map(<[u8]>::to_vec).collect();
            assert!(LEDGER.vault.open_body("eff-1/1", &chunks).is_err(), "what was never sealed opens");
        }
        _ => {}
    }
}

fn claims(text: &str) {
    let Ok(claims) = serde_json::from_str::<Claims>(text) else { return };
    let claims = Claims { expires: EXPIRES, ..claims };
    let token = LEDGER.tokens.mint(&claims);
    if let Ok(read) = LEDGER.tokens.verify(&token) {
        assert_eq!(read, claims);
    }
}

fn read(target: &str) {
    let Some((status, answer)) = ask(target, "GET", Vec::new()) else { return };
    let Some(next) = answer["data"]["next"].as_str().filter(|_| status == StatusCode::OK) else { return };
    if target.contains(['#', '%', '+']) {
        return;
    }
    let path = target.split('?').next().unwrap_or_default();
    let kept = target.split(['?', '&']).skip(1).filter(|pair| !pair.starts_with("after"));
    let query: Vec<String> = kept.map(str::to_owned).chain([format!("after={next}")]).collect();
    if let Some((StatusCode::OK, after)) = ask(&format!("{path}?{}", query.join("&")), "GET", Vec::new()) {
        assert_ne!(after["data"]["next"], answer["data"]["next"], "the pages of {target} do not end");
    }
}

fn decide(body: &[u8]) {
    ask("/infra/gate/decide", "POST", body.to_vec());
}

/// The answer in the envelope; `None` to what no client can send.
fn ask(target: &str, method: &str, body: Vec<u8>) -> Option<(StatusCode, Value)> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::AUTHORIZATION, format!("Bearer {}", LEDGER.token))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .ok()?;
    let (status, bytes) = runtime().block_on(async {
        let Ok(answer) = LEDGER.router.clone().oneshot(request).await;
        let status = answer.status();
        (status, answer.into_body().collect().await.expect("an answer is whole").to_bytes())
    });
    if status == StatusCode::METHOD_NOT_ALLOWED {
        return None;
    }
    assert!(!status.is_server_error(), "{status} to {target}");
    Json::parse(&bytes).expect("an answer can be read in one way");
    let answer: Value = serde_json::from_slice(&bytes).expect("an answer is JSON");
    assert_eq!(answer["ok"], Value::Bool(status.is_success()));
    let code = answer["error"].as_str().and_then(Code::parse);
    assert!(status.is_success() || code.is_some_and(|code| code.status() == status.as_u16()), "{status} with {code:?}");
    Some((status, answer))
}

struct Ledger {
    router: Router,
    tokens: Arc<TokenKey>,
    vault: Arc<Vault>,
    /// An admin's.
    token: String,
    _folder: TempDir,
}

/// A ledger in memory, with effects of two runs and a gate to read.
static LEDGER: LazyLock<Ledger> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a folder can be made");
    let vault = Arc::new(Vault::open(folder.path()).expect("keys can be made"));
    let tokens = Arc::new(TokenKey::open(folder.path()).expect("keys can be made"));
    let router = runtime().block_on(async {
        let opened = kybernis_ledger::fuzz::router(Arc::new(MemoryJournal::default()), Arc::clone(&vault), Arc::clone(&tokens));
        let (router, engine) = opened.await.expect("an empty journal opens");
        for number in 1..=5 {
            let parts = decide_request(effect(number), agent()).expect("the request is sound");
            engine.decide(parts).await.expect("the engine answers");
        }
        router
    });
    let (tenant, subject) = (TenantId::new("default").expect("it is a name"), PersonId::new("local:ada").expect("it is a name"));
    let token = tokens.mint(&Claims { role: Role::Admin, tenant, subject, workload: None, expires: EXPIRES });
    Ledger { router, tokens, vault, token, _folder: folder }
});

fn agent() -> AgentId {
    AgentId::new("trader").expect("it is a name")
}

/// The fifth needs an approval.
fn effect(number: u8) -> v1::DecideRequest {
    let approval = v1::Approval {
        digest: vec![5; 32],
        required: 1,
        class: "large".to_owned(),
        expires_after_ms: u64::MAX / 4,
        summary: "buy".to_owned(),
    };
    v1::DecideRequest {
        boot: "boot-1".to_owned(),
        decision: format!("d-{number}"),
        run: format!("run-{}", number % 2),
        span: format!("span-{number}"),
        tool: "orders".to_owned(),
        action: "POST broker.test/v1/orders".to_owned(),
        level: v1::KeyLevel::Tool.into(),
        keys: vec![vec![number; 32]],
        meaning: vec![number; 32],
        fingerprint: vec![number; 32],
        principal: vec![3; 32],
        derived: v1::DerivedMode::Default.into(),
        retention_ms: u64::MAX / 4,
        policy: PolicySet::default().digest().as_bytes().to_vec(),
        approval: (number == 5).then_some(approval),
        attempt: 1,
        lease_ms: 600_000,
        ..Default::default()
    }
}
