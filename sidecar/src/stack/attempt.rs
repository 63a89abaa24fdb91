//! One try under a grant: the permit is made, consumed, and what came back is judged; 307 and 308 go on within it.

use std::time::Duration;

use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use kybernis_core::key::is_credential;
use kybernis_core::machine::retry::AttemptEnd;
use kybernis_core::machine::{DoubtCause, NotSentProof, SettleOutcome};
use kybernis_core::mutation::broken;
use kybernis_core::policy::{RetryTerms, Verdict};
use kybernis_core::time::Millis;

use super::call::Call;
use super::effect::{EFFECT_MAX, Effect, Granted};
use super::heard::{Heard, HeardBody, Terms, Word};
use super::judge;
use crate::body::{SendBody, remove_where};
use crate::boot_clock::BootInstant;
use crate::permit::{self, EffectTerms, LEASE_MARGIN, Permit};
use crate::target::{Authority, Scheme, Target};
use crate::upstream::{Cut, Doubt, NotSent, SendFailure};

/// Redirects that one effect follows.
const HOPS: usize = 5;

/// How one try ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Executed, as far as the head tells.
    Completed(Heard),
    /// Refused by the far side.
    Rejected { heard: Heard, not_executed: bool },
    /// Proof that nothing was sent.
    NotSent { proof: NotSentProof, detail: String },
    /// Anything else.
    InDoubt { cause: DoubtCause, status: Option<u16>, retry_after: Option<Millis> },
}

/// One try.
pub(super) struct Attempt<'a> {
    pub(super) effect: &'a mut Effect,
    pub(super) granted: &'a Granted,
    /// From 1, under this grant.
    pub(super) tries: u32,
    pub(super) terms: Option<&'a RetryTerms>,
}

/// Where the try stands on its way along redirects.
struct Hop {
    route: Target,
    uri: Uri,
    headers: HeaderMap,
}

impl Attempt<'_> {
    pub(super) async fn carry_out(mut self) -> Ended {
        let key_header = self.effect.judged.far_side_key_header(&self.effect.call);
        let mut hop =
            Hop { route: self.effect.call.route.clone(), uri: self.effect.call.uri.clone(), headers: self.headers(key_header.as_ref()) };
        // Who sent us on did nothing itself, but it has had the request: no later hop proves that nothing was sent.
        let mut sent_on = None;
        for _ in 0..HOPS {
            let (heard, word) = match (self.send(&hop, key_header.is_some()).await, sent_on.take()) {
                (Ok(heard), _) => heard,
                (Err(Ended::NotSent { .. }), Some(heard)) => return Ended::Rejected { heard, not_executed: false },
                (Err(ended), _) => return ended,
            };
            let status = heard.head.status.as_u16();
            match word {
                Word::Completed => return Ended::Completed(heard),
                Word::Rejected { not_executed } => return Ended::Rejected { heard, not_executed },
                Word::InDoubt => {
                    let cause = self.effect.judged.doubt_cause();
                    return Ended::InDoubt { cause, status: Some(status), retry_after: retry_after(&heard.head.headers) };
                }
                Word::Cut(cut) => return Ended::InDoubt { cause: cause_of_cut(cut), status: Some(status), retry_after: None },
                Word::GoesOn => match self.onward(&hop, &heard).filter(|_| !broken("the_effect_goes_on_at_location")) {
                    Some(next) => {
                        hop = next;
                        sent_on = Some(heard);
                    }
                    // Where it may not go on, the far side's word stands: it did nothing itself.
                    None => return Ended::Rejected { heard, not_executed: false },
                },
            }
        }
        Ended::InDoubt { cause: DoubtCause::Status, status: None, retry_after: None }
    }

    fn headers(&self, key_header: Option<&http::HeaderName>) -> HeaderMap {
        let mut headers = self.effect.call.headers.clone();
        if let Some(name) = key_header {
            let of_this_try = if broken("the_far_side_key_is_stable") { self.tries } else { self.granted.grant.generation };
            let key = self.effect.identity.secret.far_side_key(&self.granted.grant.effect, of_this_try);
            // Hexadecimal digits and a hyphen.
            if let Ok(value) = HeaderValue::try_from(key) {
                // The caller's own key is a secret between it and us.
                let theirs = headers.remove("idempotency-key").filter(|_| broken("a_key_is_a_secret"));
                headers.insert(name.clone(), theirs.unwrap_or(value));
            }
        }
        headers
    }

    async fn send(&mut self, hop: &Hop, far_side_key_sent: bool) -> Result<(Heard, Word), Ended> {
        let Some(body) = self.effect.intake.sendable(&self.effect.hash) else {
            let detail = "the request's body has streamed past and cannot be sent again".to_owned();
            return Err(Ended::NotSent { proof: NotSentProof::ZeroBytesWritten, detail });
        };
        let request = request(&self.effect.call.method, &hop.uri, hop.headers.clone(), body);
        let permit = self.permit();
        let deadline = self.deadline();
        let exchange = async {
            let answer = self.effect.stack.upstream.send(permit, request, &hop.route).await.map_err(ended_of)?;
            let bound = usize::try_from(self.effect.judged.snapshot.policy().settings().body_bytes).unwrap_or(usize::MAX);
            let terms = self.effect.terms(far_side_key_sent, bound);
            Ok(terms.hear(answer).await)
        };
        let late = Ended::InDoubt { cause: DoubtCause::Timeout, status: None, retry_after: None };
        tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(late))
    }

    /// The witness is the grant that this try runs under.
    fn permit(&self) -> Permit {
        let lease_end = self.granted.lease.end();
        // The first try is bound by `send_by`. A further one follows bytes that are out already: the lease governs it.
        let send_by = if self.tries == 1 { self.granted.send_by } else { self.again_by(lease_end.borrow().before(LEASE_MARGIN)) };
        let terms =
            EffectTerms { send_by, lease_end, idempotent: self.effect.judged.tool.is_idempotent(), fresh_connection: self.tries > 1 };
        Permit::effect(permit::Granted::by_ledger(), terms)
    }

    /// Nor does it go out once the far side may have forgotten the key.
    fn again_by(&self, governed: BootInstant) -> BootInstant {
        let left = self.effect.key_known_for(self.granted);
        left.map_or(governed, |left| self.effect.stack.clock.now().after(left).min(governed))
    }

    fn deadline(&self) -> Duration {
        let left = EFFECT_MAX.saturating_sub(self.granted.at.elapsed());
        self.terms.and_then(|terms| terms.per_try_timeout).map_or(left, |per_try| per_try.to_std().min(left))
    }

    /// The next hop, where policy lets the same call go to `Location`.
    fn onward(&self, hop: &Hop, heard: &Heard) -> Option<Hop> {
        let call = &self.effect.call;
        if !self.effect.intake.is_whole() {
            return None;
        }
        let location = heard.head.headers.get(LOCATION)?.to_str().ok()?;
        let (scheme, authority, uri) = destination(&hop.route, &hop.uri, location)?;
        let same_origin = authority == hop.route.authority && scheme == hop.route.scheme;
        let route = Target { address: hop.route.address.filter(|_| same_origin), scheme, authority, protocol: hop.route.protocol };
        let mut headers = hop.headers.clone();
        if !same_origin && !broken("credentials_stay_at_their_origin") {
            remove_where(&mut headers, is_credential);
        }
        let mut parts = Request::new(()).into_parts().0;
        (parts.method, parts.uri, parts.headers) = (call.method.clone(), uri.clone(), headers.clone());
        let next = Call::read(parts, route.clone(), call.controls.clone(), &self.effect.identity, call.began.0).ok()?;
        let snapshot = &self.effect.judged.snapshot;
        let tool = snapshot.policy().set().resolve(&next.head);
        let judged = judge::judge(snapshot, tool, &next, &self.effect.intake, &self.effect.identity, Vec::new()).ok()?;
        (judged.judgement.verdict == Verdict::Allow || broken("a_redirect_asks_policy")).then_some(Hop { route, uri, headers })
    }
}

/// Where a `Location` leads that was answered from `uri` at `route`; `None` where nothing may follow it.
pub(crate) fn destination(route: &Target, uri: &Uri, location: &str) -> Option<(Scheme, Authority, Uri)> {
    let here = url::Url::parse(&format!("{}://{}{}", route.scheme.as_str(), route.authority, uri.path_and_query()?)).ok()?;
    let there = here.join(location).ok()?;
    let scheme = match there.scheme() {
        "https" => Scheme::Https,
        // What left over TLS is not carried on in the open.
        "http" if route.scheme == Scheme::Http => Scheme::Http,
        _ => return None,
    };
    let authority = format!("{}:{}", there.host_str()?, there.port_or_known_default()?);
    let authority = Authority::parse(&authority, None).ok()?;
    let uri = there[url::Position::BeforePath..url::Position::AfterQuery].parse().ok()?;
    Some((scheme, authority, uri))
}

impl Effect {
    pub(super) fn terms(&self, far_side_key_sent: bool, bound: usize) -> Terms<'_> {
        Terms { tool: &self.judged.tool, facts: &self.judged.facts, grpc: self.call.grpc, far_side_key_sent, bound }
    }
}

pub(super) fn request(method: &Method, uri: &Uri, headers: HeaderMap, body: SendBody) -> Request<SendBody> {
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    request
}

pub(super) fn ended_of(failure: SendFailure) -> Ended {
    match failure {
        SendFailure::NotSent(proof) => Ended::NotSent { detail: proof.to_string(), proof: proof_of(&proof) },
        SendFailure::Doubt(doubt) => Ended::InDoubt { cause: cause_of(doubt), status: None, retry_after: None },
    }
}

const fn proof_of(proof: &NotSent) -> NotSentProof {
    match proof {
        NotSent::ResolveFailed(_) | NotSent::ConnectFailed(_) => NotSentProof::ConnectFailed,
        NotSent::TlsFailed(_) | NotSent::ProtocolUnavailable => NotSentProof::TlsFailed,
        NotSent::ZeroBytesWritten | NotSent::Unsendable | NotSent::NoSession => NotSentProof::ZeroBytesWritten,
        NotSent::RefusedStream => NotSentProof::RefusedStream,
        NotSent::GoawayBelow { .. } => NotSentProof::GoawayBelow,
        NotSent::DeadlineBeforeFirstByte => NotSentProof::DeadlineBeforeFirstByte,
    }
}

const fn cause_of(doubt: Doubt) -> DoubtCause {
    match doubt {
        Doubt::Reset | Doubt::GoawayAmbiguous | Doubt::RequestCut => DoubtCause::Reset,
        Doubt::Eof => DoubtCause::Eof,
        Doubt::Timeout => DoubtCause::Timeout,
        Doubt::LeaseLost => DoubtCause::LeaseLost,
        Doubt::BadAnswer => DoubtCause::Truncated,
    }
}

/// What a cut answer leaves behind.
pub(super) const fn cause_of_cut(cut: Cut) -> DoubtCause {
    match cut {
        Cut::Timeout => DoubtCause::Timeout,
        Cut::Eof | Cut::Reset | Cut::UnauthenticatedClose | Cut::Malformed => DoubtCause::Truncated,
    }
}

impl Ended {
    /// The try as the retry rules see it; `None` for a success.
    pub(super) fn attempt_end(&self) -> Option<AttemptEnd> {
        match self {
            Self::Completed(_) => None,
            Self::Rejected { heard, .. } => Some(AttemptEnd::Status { status: heard.head.status.as_u16(), rejected: true }),
            Self::NotSent { proof, .. } => Some(AttemptEnd::NotSent(*proof)),
            Self::InDoubt { cause: DoubtCause::Status, status: Some(status), .. } => {
                Some(AttemptEnd::Status { status: *status, rejected: false })
            }
            Self::InDoubt { cause, .. } => Some(AttemptEnd::Unclear(*cause)),
        }
    }

    /// Whether the far side may have executed it.
    pub(super) const fn may_have_executed(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::InDoubt { .. })
    }

    /// How long the far side asks to wait.
    pub(super) fn retry_after(&self) -> Option<Millis> {
        match self {
            Self::Rejected { heard, .. } => retry_after(&heard.head.headers),
            Self::InDoubt { retry_after, .. } => *retry_after,
            Self::Completed(_) | Self::NotSent { .. } => None,
        }
    }

    /// The outcome that frees the key.
    pub(super) fn refused_outcome(&self) -> Option<SettleOutcome> {
        match self {
            Self::Rejected { heard, not_executed } => {
                Some(SettleOutcome::Rejected { status: heard.head.status.as_u16(), not_executed: *not_executed })
            }
            Self::NotSent { proof, .. } => Some(SettleOutcome::NotSent(*proof)),
            Self::Completed(_) | Self::InDoubt { .. } => None,
        }
    }

    /// For the span of a try that is followed by another.
    pub(super) fn code(&self) -> String {
        match self {
            Self::Completed(_) => "completed".to_owned(),
            Self::Rejected { heard, .. } => format!("status_{}", heard.head.status.as_u16()),
            Self::NotSent { .. } => "not_sent".to_owned(),
            Self::InDoubt { status: Some(status), .. } => format!("status_{status}"),
            Self::InDoubt { cause, .. } => format!("{cause:?}").to_ascii_lowercase(),
        }
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Millis> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Millis::from_secs(seconds));
    }
    let at = time::OffsetDateTime::parse(value, &time::format_description::well_known::Rfc2822).ok()?;
    let left = at - time::OffsetDateTime::now_utc();
    Some(Millis::new(u64::try_from(left.whole_milliseconds()).unwrap_or(0)))
}

/// Whether anything of an answer is still to come.
pub(super) fn is_empty(heard: &Heard) -> bool {
    use http_body::Body as _;
    match &heard.body {
        HeardBody::Whole { bytes, trailers } => bytes.is_empty() && trailers.is_none(),
        HeardBody::Streaming { first, rest } => first.is_none() && rest.is_end_stream(),
    }
}
