//! The ledger's HTTP API from the outside: the only way in which this program reads runs, effects and gates, or tells a
//! person's word.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use kybernis_core::ids::TenantId;
use kybernis_ledger::auth::{Claims, Role, TokenKey};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::home::Home;
use crate::read::{Listing, Source};
use crate::supervise::{local_person, now_seconds};

/// A ledger that is started again answers within this; a little more than its longest pause.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between tries.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// For one call.
const TOKEN_LIFE_SECONDS: u64 = 300;

/// Somebody's ledger.
#[derive(Debug)]
pub(crate) struct Api {
    at: SocketAddr,
    token: String,
}

/// What the ledger said no to.
#[derive(Debug, thiserror::Error)]
#[error("{detail} ({code})")]
pub(crate) struct Refused {
    /// The problem's code.
    pub(crate) code: String,
    /// What to do.
    pub(crate) detail: String,
}

impl Api {
    /// The ledger at `at`, as the local user; who can read the data folder's key may do everything there.
    pub(crate) fn local(home: &Home, at: SocketAddr) -> anyhow::Result<Self> {
        let claims = Claims {
            role: Role::Admin,
            tenant: TenantId::new(kybernis_crds::DEFAULT_NAMESPACE)?,
            subject: local_person(),
            workload: None,
            expires: now_seconds() + TOKEN_LIFE_SECONDS,
        };
        Ok(Self { at, token: TokenKey::open(home.path())?.mint(&claims) })
    }

    /// Tells.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, body.to_string().into()).await
    }

    async fn call(&self, method: Method, path_and_query: &str, body: Bytes) -> anyhow::Result<Value> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.once(method.clone(), path_and_query, body.clone()).await {
                Ok(answer) => return unwrap(answer),
                // Every call can be repeated: a person's word counts once.
                Err(error) if tokio::time::Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(TRY_EVERY).await,
            }
        }
    }

    async fn once(&self, method: Method, path_and_query: &str, body: Bytes) -> anyhow::Result<Value> {
        let exchange = async {
            let stream = TcpStream::connect(self.at).await?;
            let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let driving = tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path_and_query)
                .header(header::HOST, self.at.to_string())
                .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body))?;
            let answer = send.send_request(request).await?;
            let bytes = answer.into_body().collect().await?.to_bytes();
            driving.abort();
            Ok::<_, anyhow::Error>(serde_json::from_slice(&bytes)?)
        };
        let answered = tokio::time::timeout(PATIENCE, exchange).await.map_err(anyhow::Error::from).and_then(|answered| answered);
        answered.with_context(|| format!("the ledger at {} does not answer", self.at))
    }
}

impl Source for Api {
    const PROGRAM: &'static str = "kybernis";

    fn place(&self, listing: Listing<'_>) -> String {
        match listing {
            Listing::Runs => "/infra/runs".to_owned(),
            Listing::Effects => "/infra/effects".to_owned(),
            Listing::Gates => "/infra/gates".to_owned(),
            Listing::Events(run) => format!("/infra/graph/events?run_id={run}"),
        }
    }

    async fn page(&self, place: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, place, Bytes::new()).await
    }
}

/// Takes the data out of the envelope.
pub(crate) fn unwrap(mut answer: Value) -> anyhow::Result<Value> {
    if answer.get("ok") == Some(&Value::Bool(true)) {
        return Ok(answer.get_mut("data").map(Value::take).unwrap_or_default());
    }
    let text = |member: &str| answer.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    Err(Refused { code: text("code"), detail: text("detail") }.into())
}
