//! The decision stack: what happens to a call between the agent's bytes and the far side's.
//!
//! ```text
//! 1 control headers   read, checked, taken off             controls
//! 2 the call          where it goes, in which run          call
//! 3 the body          as far as policy must see it         intake
//! 4 the verdict       policy over one snapshot             judge
//! 5 the way           passes (reads, samples, sessions)    pass
//!                     or is an effect: Decide, dispatch,   effect, decide, attempt, heard,
//!                     settle, answer                       deliver, settle, replay
//!                     or, in Audit mode, is watched        observe
//! ```

mod alone;
pub(crate) mod attempt;
mod call;
mod caller;
mod callers;
pub(crate) mod controls;
mod decide;
mod deliver;
mod effect;
pub(crate) mod heard;
pub(crate) mod intake;
mod judge;
mod leases;
mod observe;
mod pass;
mod probes;
mod record;
pub(crate) mod refuse;
mod replay;
mod reply;
mod runs;
mod settle;
mod summary;
mod tunnels;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Request, Response};
use kybernis_core::ids::SpanId;
use kybernis_core::ksp::KspEvent;
use kybernis_core::machine::{DoubtCause, Renew, Settle, SettleOutcome};
use kybernis_core::policy::{Class, Host};
use kybernis_core::reason::{Code, Refusal};
use kybernis_core::time::{Millis, Timestamp};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::alone::Sent;
use self::call::{Call, new_span};
use self::callers::Callers;
pub(crate) use self::decide::HOLD;
use self::decide::ledger_away;
use self::effect::Effect;
use self::intake::{HashOfStream, Intake};
use self::judge::Judged;
use self::leases::Leases;
use self::pass::{As, Pass};
use self::record::{Span, span_type};
use self::runs::Runs;
use crate::api_server::ApiServer;
use crate::arrival::{Arrival, Handler, Origin, TlsTreatment};
use crate::body::{RequestBody, ResponseBody};
use crate::boot_clock::BootClock;
use crate::control::{Control, Identity, Snapshot};
use crate::listen::Tunnel;
use crate::spool::{Kind, Spool};
use crate::target::Authority;
use crate::upstream::Upstream;

/// Bytes of answers that are kept for replay until their outcomes are on record, over all exchanges.
const ANSWERS_KEPT: usize = 64 * 1024 * 1024;

/// The stack and what its layers share.
#[derive(Debug)]
pub struct Stack {
    control: Control,
    api_server: Option<Arc<ApiServer>>,
    spool: Spool,
    upstream: Upstream,
    clock: BootClock,
    leases: Arc<Leases>,
    callers: Arc<Callers>,
    room: Arc<Semaphore>,
    runs: Runs,
    sent: Sent,
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl Stack {
    /// Builds the stack and starts what works behind it: renewals, probes, and what the spool has to deliver.
    pub(crate) fn start(
        control: Control,
        spool: Spool,
        upstream: Upstream,
        clock: BootClock,
        api_server: Option<Arc<ApiServer>>,
        closing: CancellationToken,
    ) -> Arc<Self> {
        let stack = Arc::new(Self {
            control,
            api_server,
            spool,
            upstream,
            clock,
            leases: Arc::default(),
            callers: Arc::default(),
            room: Arc::new(Semaphore::new(ANSWERS_KEPT)),
            runs: Runs::default(),
            sent: Sent::default(),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
        });
        let renewing = Arc::clone(&stack.leases).keep(stack.control.clone(), Arc::clone(&stack.callers), stack.clock.clone());
        tokio::spawn(renewing);
        let adopting = Arc::downgrade(&stack);
        stack.spool.deliver(&stack.control, move |adoption| {
            if let Some(stack) = adopting.upgrade() {
                stack.adopted(adoption);
            }
        });
        tokio::spawn(probes::serve(Arc::clone(&stack), closing));
        stack
    }

    /// Waits until every exchange under way has its outcome on record.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends what has no end of its own: sessions, and whatever is only watched. Their spans then say how far they came.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Tells the ledger what is known at the end of this life: what is still under way has nobody to hear its answer, and whose
    /// callers have read theirs, or are gone.
    pub async fn farewell(self: &Arc<Self>) {
        for (effect, fence) in self.leases.names() {
            let settle = Settle {
                boot: self.control.boot().clone(),
                effect,
                fence,
                outcome: SettleOutcome::InDoubt { cause: DoubtCause::LeaseLost, status: None },
                fingerprint: None,
                latency: Millis::default(),
                bytes_out: 0,
                bytes_in: 0,
            };
            self.settle(&settle, Vec::new()).await;
        }
        let news = self.callers.news();
        if news.seen().is_empty() {
            return;
        }
        let renew =
            Renew { boot: self.control.boot().clone(), leases: Vec::new(), lease: leases::lease_ms(), observed: news.seen().to_vec() };
        match self.control.renew((&renew).into()).await {
            Ok(_) => news.told(),
            Err(error) => tracing::info!(%error, "the ledger was not told of the last callers"),
        }
    }

    fn record(&self, events: &[KspEvent]) {
        self.spool.spans.record(Kind::Kept, events);
    }

    /// Who we are and what holds; held a while for a ledger that is not there yet.
    async fn in_force(&self) -> Result<(Arc<Identity>, Arc<Snapshot>), Refusal> {
        if let (Some(identity), Some(snapshot)) = (self.control.identity(), self.control.policy()) {
            return if snapshot.is_expired() && !judge::audits(&snapshot) {
                Err(Refusal::new(Code::LedgerUnavailable, "The ledger has been away for so long that the last policy no longer counts."))
            } else {
                Ok((identity, snapshot))
            };
        }
        tokio::time::timeout(HOLD, self.control.ready()).await.map_err(|_| ledger_away())?;
        self.control.identity().zip(self.control.policy()).ok_or_else(ledger_away)
    }

    async fn answer(self: Arc<Self>, arrival: Arrival, request: Request<RequestBody>) -> Response<ResponseBody> {
        let (mut parts, body) = request.into_parts();
        let grpc = call::speaks_grpc(&parts.headers);
        let (identity, snapshot) = match self.in_force().await {
            Ok(in_force) => in_force,
            Err(refusal) => return refuse::to_response(&refusal, grpc),
        };
        let span = match new_span() {
            Ok(span) => span,
            Err(refusal) => return refuse::to_response(&refusal, grpc),
        };
        let mut noted = Vec::new();
        let taken = controls::take(&mut parts.headers);
        let (controls, bad) = match taken {
            Ok(controls) => (controls, None),
            Err(refusal) => (controls::Controls::default(), Some(refusal)),
        };
        let mut call = match Call::read(parts, arrival.target.clone(), controls, &identity, now()) {
            Ok(call) => call,
            Err(refusal) => return refuse::to_response(&refusal, grpc),
        };
        if !call.upgrade && call.offers_upgrade() {
            call.upgrade = judge::audits(&snapshot);
            if !call.upgrade {
                call.decline_upgrade();
            }
        }
        if let Some(Err(refusal)) = bad.map(|refusal| judge::unless_audited(&snapshot, &mut noted, refusal)) {
            return self.refused(&call, &span, None, refusal);
        }
        self.decided(Deciding { identity, snapshot, call, span, arrival, body, noted }).await
    }

    /// From the parsed call to its way: it passes, it is an effect, or it is refused.
    async fn decided(self: Arc<Self>, deciding: Deciding) -> Response<ResponseBody> {
        let Deciding { identity, snapshot, mut call, span, arrival, body, mut noted } = deciding;
        let tool = match judge::tool_of(&snapshot, &call, &mut noted) {
            Ok(tool) => tool,
            Err(refusal) => return self.refused(&call, &span, None, refusal),
        };
        let intake = judge::take_in(&snapshot, &tool, &call, body, &mut noted).await;
        let judged =
            intake.and_then(|intake| judge::judge(&snapshot, tool, &call, &intake, &identity, noted).map(|judged| (intake, judged)));
        let (intake, mut judged) = match judged {
            Ok(judged) => judged,
            Err(refusal) => return self.refused(&call, &span, None, refusal),
        };
        if let Some(denial) = judged.denial() {
            return self.refused(&call, &span, Some(&judged), denial);
        }
        match way_of(&call, &intake, &judged) {
            Ok(Way::Pass(pass_as)) => {
                if self.runs.is_foreign(&self.control, &call, judged.audits()).await {
                    let detail = format!("Run {} belongs to another agent; use a run id of your own.", call.run);
                    let foreign = Refusal::new(Code::RunForeign, detail);
                    if let Err(refusal) = judge::unless_audited(&snapshot, &mut judged.noted, foreign) {
                        return self.refused(&call, &span, Some(&judged), refusal);
                    }
                    call.belongs_to(&identity);
                }
                Pass { stack: self, call, judged, span, pass_as }.answer(intake, arrival).await
            }
            Ok(Way::Effect) => match judged.name(&call, &intake, &identity) {
                Ok(named) => {
                    let delivery = arrival.delivery;
                    let hash = HashOfStream::default();
                    Effect { stack: self, identity, call, intake, judged, named, hash, span, attempt: 1, delivery }.answer().await
                }
                Err(refusal) => self.refused(&call, &span, Some(&judged), refusal),
            },
            Err(refusal) => self.refused(&call, &span, Some(&judged), refusal),
        }
    }

    /// A refusal of our own, on record.
    fn refused(&self, call: &Call, span: &SpanId, judged: Option<&Judged>, refusal: Refusal) -> Response<ResponseBody> {
        let policy_id = refusal.policy_id.clone().or_else(|| judged.and_then(Judged::policy_id));
        let refusal = Refusal { run: Some(call.run.clone()), span: Some(span.clone()), policy_id, ..refusal };
        let class = judged.map_or_else(|| if call.head.is_read() { Class::Read } else { Class::SideEffect }, |judged| judged.tool.class());
        self.record(&Span::of(call, span, span_type(class), judged).refused(&refusal));
        refuse::of_attempt(&refusal, call.grpc, 1)
    }
}

/// A parsed call on its way to a decision.
struct Deciding {
    identity: Arc<Identity>,
    snapshot: Arc<Snapshot>,
    call: Call,
    span: SpanId,
    arrival: Arrival,
    body: RequestBody,
    /// What Audit mode lets pass.
    noted: Vec<Refusal>,
}

/// How a call that is not denied goes on.
enum Way {
    /// Decided here.
    Pass(As),
    /// Through the ledger.
    Effect,
}

fn way_of(call: &Call, intake: &Intake, judged: &Judged) -> Result<Way, Refusal> {
    let approval_due = judged.approval_rule().is_some();
    if call.upgrade || intake.is_stream() {
        if approval_due {
            let detail =
                "A session (upgrade, or a stream both ways) cannot be bound by an approval. Use a single request, or change the rule.";
            return Err(Refusal { policy_id: judged.policy_id(), ..Refusal::new(Code::SessionRefused, detail) });
        }
        return Ok(Way::Pass(As::Session));
    }
    Ok(match judged.tool.class() {
        _ if approval_due => Way::Effect,
        Class::Read => Way::Pass(As::Read),
        // Repeating a sample is often meant, unless a key says otherwise.
        Class::Llm if call.controls.key.is_none() && !judged.tool.has_key() => Way::Pass(As::Read),
        Class::Llm | Class::SideEffect => Way::Effect,
    })
}

impl Handler for Stack {
    async fn handle(self: Arc<Self>, arrival: Arrival, request: Request<RequestBody>) -> Response<ResponseBody> {
        self.answer(arrival, request).await
    }

    async fn tunnel(self: Arc<Self>, tunnel: Tunnel) {
        tunnels::carry(self, tunnel).await;
    }

    fn tls_treatment(&self, origin: &Origin, authority: &Authority) -> TlsTreatment {
        if self.api_server.as_ref().is_some_and(|api| api.is_at(origin.original_destination)) {
            return TlsTreatment::PassThrough;
        }
        let host = match &authority.host {
            crate::target::Host::Name(name) => Host::new(name),
            crate::target::Host::Ip(ip) => Host::new(&ip.to_string()),
        };
        let passes =
            |snapshot: &Snapshot| host.as_ref().is_ok_and(|host| snapshot.policy().settings().is_uninspected(host, authority.port));
        let uninspected = self.control.policy().is_some_and(|snapshot| passes(&snapshot));
        if uninspected { TlsTreatment::PassThrough } else { TlsTreatment::Intercept }
    }
}

/// Never kept for replay: a repeat may come from somebody else, and hop-by-hop fields are the hop's.
fn never_stored(name: &str) -> bool {
    const NEVER: [&str; 10] = [
        "set-cookie",
        "authorization",
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NEVER.contains(&name) && !kybernis_core::mutation::broken("cookies_are_not_replayed")
}

/// Where in its backoff a retry goes out: any share of it is as likely as another.
fn jitter() -> u16 {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

/// Wall time, for spans.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_epoch_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
