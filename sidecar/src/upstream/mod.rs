//! The way out: one client that consumes a permit for each request, and says of every failure what it proves.

mod answer;
mod connect;
mod failure;
mod framing;
mod headers;
mod http1;
mod http2;
mod pool;
pub(crate) mod tap;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, StatusCode};
use http_body::Body as _;
use hyper_util::rt::TokioIo;

pub(crate) use self::answer::Piece;
pub use self::answer::{Answer, AnswerBody, BodyEnd, Cut, UpstreamIo};
use self::connect::Connector;
pub use self::failure::{Doubt, NotSent, SendFailure};
use self::framing::{Busy, Framed, Http1Body, Http2Body};
pub(crate) use self::headers::{strip_agents_hop, strip_hop_by_hop, wants_upgrade};
use self::http1::Http1;
use self::http2::Http2;
use self::pool::{Freshness, Key, Pool};
use crate::body::SendBody;
use crate::boot_clock::BootClock;
use crate::permit::{EffectTerms, Permit, PermitKind};
use crate::resolve::Resolve;
use crate::target::{Scheme, Target};
use crate::tls::client::ClientTls;

/// How often a request of which nothing was sent moves on to another connection before that is an answer.
const UNSENT_ATTEMPTS: usize = 3;

/// The upstream client. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Upstream {
    connector: Arc<Connector>,
    pool: Arc<Pool>,
}

impl Upstream {
    /// A client that resolves with `resolver`, verifies with `tls`, counts deadlines on `clock`, and never connects
    /// to `own`, our own listeners.
    pub fn new(resolver: Arc<dyn Resolve>, tls: ClientTls, clock: BootClock, own: Vec<SocketAddr>) -> Self {
        Self { connector: Arc::new(Connector { resolver, tls, clock, own }), pool: Arc::default() }
    }

    /// Sends one request to `target` and returns the head of its answer.
    ///
    /// The URI may be in any form; what goes out is rebuilt from its path and query, and `target` gives the authority.
    /// `Content-Length` and `Transfer-Encoding` follow from the body; hop-by-hop headers and `Expect` are removed.
    /// An `Upgrade` goes through only under a session permit.
    ///
    /// Dropping the future breaks the exchange off. It sets no time limit of its own for the answer.
    ///
    /// # Errors
    /// [`SendFailure::NotSent`] where there is proof that nothing was executed, else [`SendFailure::Doubt`].
    pub async fn send(&self, permit: Permit, request: Request<SendBody>, target: &Target) -> Result<Answer, SendFailure> {
        let kind = permit.into_kind();
        let upgrade = headers::wants_upgrade(request.headers());
        if upgrade && !matches!(kind, PermitKind::Session) {
            return Err(NotSent::NoSession.into());
        }
        let terms = match kind {
            PermitKind::Effect(terms) => Some(terms),
            PermitKind::Read | PermitKind::Session => None,
        };
        let key = Arc::new(target.clone());
        let mut request = request;
        let mut freshness = freshness_for(terms.as_ref());
        // A read may be sent again where a connection from the pool turns out to be dead; an effect only with proof.
        let mut spare = terms.is_none().then(|| copy_of(&request)).flatten();
        for _ in 0..UNSENT_ATTEMPTS {
            let attempt = self.attempt(&key, freshness, terms.clone(), request).await;
            let (failure, reused, unsent) = match attempt {
                Ok(answer) => return Ok(answer),
                Err(failed) => *failed,
            };
            let again = match (&failure, unsent) {
                _ if !reused => None,
                (SendFailure::NotSent(NotSent::ZeroBytesWritten), Some(unsent)) => Some(unsent),
                _ => spare.take(),
            };
            let Some(again) = again else {
                return Err(failure);
            };
            request = again;
            freshness = Freshness::New;
        }
        Err(NotSent::ZeroBytesWritten.into())
    }

    async fn attempt(
        &self,
        key: &Arc<Key>,
        freshness: Freshness,
        terms: Option<EffectTerms>,
        request: Request<SendBody>,
    ) -> Result<Answer, Box<AttemptFailed>> {
        match self.link(key, freshness, terms.is_some()).await {
            Ok(Link::Http1(connection)) => self.over_http1(connection, key, terms, request).await,
            Ok(Link::Http2(connection)) => over_http2(connection, key, terms, request).await,
            Err(proof) => Err(Box::new((proof.into(), false, None))),
        }
    }

    /// An open connection, from the pool if it has one that is fresh enough.
    async fn link(&self, key: &Key, freshness: Freshness, for_effect: bool) -> Result<Link, NotSent> {
        while let Some(mut connection) = self.pool.take_http1(key, freshness) {
            if connection.ready().await {
                return Ok(Link::Http1(connection));
            }
        }
        if freshness != Freshness::New
            && let Some(connection) = self.pool.http2(key, for_effect)
        {
            return Ok(Link::Http2(connection));
        }
        let connected = self.connector.connect(key).await?;
        if connected.http2 {
            let connection = Http2::open(connected).await?;
            self.pool.put_http2(key, &connection);
            Ok(Link::Http2(connection))
        } else {
            let over_tls = key.scheme == Scheme::Https;
            Http1::open(connected, over_tls).await.map(Link::Http1)
        }
    }

    async fn over_http1(
        &self,
        mut connection: Http1,
        key: &Arc<Key>,
        terms: Option<EffectTerms>,
        request: Request<SendBody>,
    ) -> Result<Answer, Box<AttemptFailed>> {
        let reused = connection.reused;
        let request = headers::for_http1(request, key).map_err(|proof| Box::new((proof.into(), false, None)))?;
        let (mut response, token) = match connection.send(terms, request).await {
            Ok(sent) => sent,
            Err(failed) => return Err(Box::new((failed.failure, reused, failed.request))),
        };
        let upgrade = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            match hyper::upgrade::on(&mut response).await {
                Ok(upgraded) => Some(TokioIo::new(upgraded)),
                Err(_) => return Err(Box::new((Doubt::Reset.into(), false, None))),
            }
        } else {
            None
        };
        let remote = connection.remote;
        let (mut head, incoming) = response.into_parts();
        let close_delimited = Answer::is_close_delimited(&head, incoming.is_end_stream());
        headers::clean_answer(&mut head.headers, upgrade.is_some());
        let busy = Busy { connection, token, pool: Arc::clone(&self.pool), key: Arc::clone(key) };
        let body = AnswerBody::new(Framed::Http1(Http1Body::new(incoming, busy, close_delimited)));
        Ok(Answer { head, body, upgrade, remote, reused })
    }

    /// Opens a plain TCP connection for a tunnel. The permit must be a session's.
    ///
    /// # Errors
    /// When the permit is of another kind, or no connection comes about.
    pub async fn open_tunnel(&self, permit: Permit, target: &Target) -> Result<tokio::net::TcpStream, NotSent> {
        match permit.into_kind() {
            PermitKind::Session => self.connector.tcp(target).await,
            PermitKind::Read | PermitKind::Effect(_) => Err(NotSent::NoSession),
        }
    }
}

/// What failed, whether the connection had served before, and the request if none of it was used.
type AttemptFailed = (SendFailure, bool, Option<Request<SendBody>>);

enum Link {
    Http1(Http1),
    Http2(Http2),
}

async fn over_http2(
    connection: Http2,
    key: &Key,
    terms: Option<EffectTerms>,
    request: Request<SendBody>,
) -> Result<Answer, Box<AttemptFailed>> {
    let remote = connection.remote();
    let reused = connection.was_used();
    let request = headers::for_http2(request, key).map_err(|proof| Box::new((proof.into(), false, None)))?;
    let (response, hold) = match connection.send(terms, request).await {
        Ok(sent) => sent,
        Err((failure, unsent)) => return Err(Box::new((failure, reused, unsent))),
    };
    let (mut head, stream) = response.into_parts();
    headers::clean_answer(&mut head.headers, false);
    Ok(Answer { head, body: AnswerBody::new(Framed::Http2(Http2Body::new(stream, hold))), upgrade: None, remote, reused })
}

fn freshness_for(terms: Option<&EffectTerms>) -> Freshness {
    match terms {
        None => Freshness::Any,
        Some(terms) if terms.fresh_connection => Freshness::New,
        Some(terms) if terms.idempotent => Freshness::Any,
        Some(_) => Freshness::Recent,
    }
}

/// The same request again, for a read without a streamed body.
fn copy_of(request: &Request<SendBody>) -> Option<Request<SendBody>> {
    if headers::wants_upgrade(request.headers()) || !request.method().is_safe() {
        return None;
    }
    let mut copy = Request::new(request.body().copy()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
