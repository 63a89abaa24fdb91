//! Which replica acts: whoever holds the Lease (coordination.k8s.io/v1).
//!
//! By hand and not by a library, because of one rule: a replica that could not renew for as long as its Lease lasts steps down, also
//! when it cannot ask anybody. It might still reach the ledger, and would give it what the cluster no longer says. Others' clocks
//! are not believed: a Lease is over when it has not changed for its duration as seen from here.
//!
//! A process that was frozen wakes with another leader beside it, and its loops may run before it hears of that. So the lead carries its
//! own end, and each call that only a leader makes looks at the clock before it goes out: [`Lead::holds`].

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::client::Body;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// The Lease's name.
const NAME: &str = "kybernis-operator";
/// How long a Lease lasts that is not renewed (client-go's values, as for every controller of Kubernetes).
const DURATION: Duration = Duration::from_secs(15);
/// A leader that has not renewed for this long steps down, before anybody else may take over.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// Time between tries.
const RETRY: Duration = Duration::from_secs(2);
/// For one question to the API server.
const PATIENCE: Duration = Duration::from_secs(3);

/// Until when this replica leads; `None` while it does not. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lead(watch::Receiver<Option<Instant>>);

impl Lead {
    /// Nobody's yet, and who tells of it.
    pub(crate) fn new() -> (watch::Sender<Option<Instant>>, Self) {
        let (tell, until) = watch::channel(None);
        (tell, Self(until))
    }

    /// Whether this replica leads at this very moment.
    pub(crate) fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until this replica leads; `false` when nobody tells any more who does.
    pub(crate) async fn gained(&mut self) -> bool {
        self.0.wait_for(Option::is_some).await.is_ok()
    }

    /// Waits until this replica is told that it leads no more.
    pub(crate) async fn lost(&mut self) {
        // With nobody left to tell, it does not lead either.
        let _ = self.0.wait_for(Option::is_none).await;
    }
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this replica does not lead any more")]
pub(crate) struct Deposed;

/// The API server, where anybody reads and only the leader writes.
pub(crate) fn writing(client: Client, lead: Lead) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, may) = (client.clone(), request.method() == Method::GET || lead.holds());
        async move { if may { client.send(request).await } else { Err(kube::Error::Service(Box::new(Deposed))) } }
    });
    Client::new(service, namespace)
}

/// What is to be done about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours, or nobody's: write it.
    Take,
    /// Another holds it.
    Wait,
}

/// What was seen of the Lease, and when it last changed.
#[derive(Clone, Debug)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Seen {
    const fn new(now: Instant) -> Self {
        Self { version: None, since: now }
    }

    fn step(&mut self, me: &str, lease: &Lease, now: Instant) -> Step {
        if self.version != lease.metadata.resource_version {
            (self.version, self.since) = (lease.metadata.resource_version.clone(), now);
        }
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let over = now.duration_since(self.since) >= seconds.map_or(DURATION, Duration::from_secs);
        match holder {
            None => Step::Take,
            Some(holder) if holder == me || over => Step::Take,
            Some(_) => Step::Wait,
        }
    }
}

/// The Lease as its holder writes it.
fn held(me: &str, found: Option<&Lease>, now: Timestamp) -> Lease {
    let before = found.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let mine = before.holder_identity.as_deref() == Some(me);
    let spec = LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if mine { before.acquire_time } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!mine && found.is_some())),
        ..LeaseSpec::default()
    };
    let version = found.and_then(|lease| lease.metadata.resource_version.clone());
    // The version makes two replicas that write at once exclude each other.
    let metadata = ObjectMeta { name: Some(NAME.to_owned()), resource_version: version, ..ObjectMeta::default() };
    Lease { metadata, spec: Some(spec) }
}

/// Stands for election; returns never.
pub(crate) async fn stand(client: Client, namespace: String, me: String, tell: watch::Sender<Option<Instant>>, metrics: Arc<Metrics>) {
    let leases = Api::<Lease>::namespaced(client, &namespace);
    let mut seen = Seen::new(Instant::now());
    let mut renewed: Option<Instant> = None;
    loop {
        let began = Instant::now();
        match tokio::time::timeout(PATIENCE, round(&leases, &me, &mut seen)).await {
            Ok(Ok(true)) => renewed = Some(began),
            Ok(Ok(false)) => renewed = None,
            Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be renewed"),
            Err(_) => tracing::warn!("the Lease cannot be renewed: no answer in time"),
        }
        let until = renewed.map(|renewed| renewed + RENEW_WITHIN).filter(|until| Instant::now() < *until);
        let (led, leads) = (tell.send_replace(until).is_some(), until.is_some());
        metrics.leading.set(leads.into());
        if led != leads {
            tracing::info!(leads, "the leader changed");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether the Lease is ours after this round.
async fn round(leases: &Api<Lease>, me: &str, seen: &mut Seen) -> Result<bool, kube::Error> {
    let found = leases.get_opt(NAME).await?;
    let step = found.as_ref().map_or(Step::Take, |lease| seen.step(me, lease, Instant::now()));
    if step == Step::Wait {
        return Ok(false);
    }
    let lease = held(me, found.as_ref(), Timestamp::now());
    let written = match &found {
        Some(_) => leases.replace(NAME, &PostParams::default(), &lease).await,
        None => leases.create(&PostParams::default(), &lease).await,
    };
    match written {
        Ok(_) => Ok(true),
        // Somebody was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives the Lease back, so that another replica need not wait until it is over.
pub(crate) async fn step_down(client: Client, namespace: &str, me: &str) {
    let leases = Api::<Lease>::namespaced(client, namespace);
    let given = tokio::time::timeout(PATIENCE, async {
        let Some(mut lease) = leases.get_opt(NAME).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(me)) else { return Ok(()) };
        spec.holder_identity = None;
        leases.replace(NAME, &PostParams::default(), &lease).await.map(drop)
    });
    match given.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be given back"),
        Err(_) => tracing::warn!("the Lease cannot be given back: no answer in time"),
    }
}

#[cfg(test)]
mod tests {
    use kube::api::{DynamicObject, Patch, PatchParams};
    use serde_json::json;

    use super::*;
    use crate::fake_api::FakeApi;

    fn lease(holder: Option<&str>, version: &str) -> Lease {
        let spec = LeaseSpec { holder_identity: holder.map(str::to_owned), lease_duration_seconds: Some(15), ..LeaseSpec::default() };
        Lease { metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() }, spec: Some(spec) }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_ours_or_nobodys_or_has_not_changed_for_its_duration() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::new(start);
        for (seconds, found, step) in [
            (0, lease(None, "1"), Step::Take),
            (1, lease(Some(""), "2"), Step::Take),
            (2, lease(Some("me"), "3"), Step::Take),
            (3, lease(Some("other"), "4"), Step::Wait),
            (17, lease(Some("other"), "4"), Step::Wait),
            // It was renewed just before it was over.
            (17, lease(Some("other"), "5"), Step::Wait),
            (31, lease(Some("other"), "5"), Step::Wait),
            (32, lease(Some("other"), "5"), Step::Take),
        ] {
            assert_eq!(seen.step("me", &found, at(seconds)), step, "after {seconds} s");
        }
    }

    #[test]
    fn taking_over_is_counted_and_renewing_is_not() {
        let now = Timestamp::from_second(1000).unwrap();
        let spec = |lease: Lease| lease.spec.unwrap();
        let first = held("me", None, now);
        assert_eq!((spec(first.clone()).lease_transitions, first.metadata.resource_version.clone()), (Some(0), None));
        let later = Timestamp::from_second(1002).unwrap();
        let renewed = spec(held("me", Some(&first), later));
        assert_eq!((renewed.acquire_time, renewed.renew_time), (Some(MicroTime(now)), Some(MicroTime(later))));
        let taken = spec(held("me", Some(&lease(Some("other"), "7")), later));
        assert_eq!((taken.lease_transitions, taken.acquire_time), (Some(1), Some(MicroTime(later))));
        assert_eq!(held("me", Some(&lease(Some("other"), "7")), later).metadata.resource_version.as_deref(), Some("7"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_renew_steps_down_before_anybody_may_take_over() {
        use std::sync::atomic::{AtomicBool, Ordering};

        use http::Response;

        // No Lease is ever there, so each round makes one; then nobody answers any more.
        let away = Arc::new(AtomicBool::new(false));
        let hangs = Arc::clone(&away);
        let service = tower::service_fn(move |request: Request<Body>| {
            let hangs = hangs.load(Ordering::SeqCst);
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                let (head, body) = request.into_parts();
                let missing = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":404,"reason":"NotFound"}"#;
                let answer = if head.method == "GET" {
                    Response::builder().status(404).body(Body::from(missing.as_bytes().to_vec()))
                } else {
                    Response::builder().status(201).body(body)
                };
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            }
        });
        let (tell, mut lead) = Lead::new();
        let client = Client::new(service, "default");
        let standing = stand(client, "kybernis-system".to_owned(), "me".to_owned(), tell, Arc::default());
        tokio::spawn(standing);
        assert!(lead.gained().await);
        tokio::time::sleep(RETRY * 20 + RETRY / 2).await;
        assert!(lead.holds(), "it is renewed");
        away.store(true, Ordering::SeqCst);
        let last = Instant::now();
        let until = lead.0.borrow().unwrap();
        assert!(until <= last + RENEW_WITHIN, "{:?}", until - last);
        tokio::time::sleep_until(until).await;
        assert!(!lead.holds(), "it is over whoever says so");
        lead.lost().await;
        assert!(last.elapsed() + RETRY < DURATION, "{:?}", last.elapsed());
    }

    #[tokio::test]
    async fn who_leads_no_more_writes_nothing_and_reads() {
        let api = FakeApi::new();
        api.change(|world| world.put("gates", "trading", "gate-a", json!({"spec": {}})));
        let (tell, lead) = Lead::new();
        let client = writing(api.client(), lead.clone());
        let gates: Api<DynamicObject> = Api::namespaced_with(client, "trading", &crate::watch::gate());
        let (params, denied) = (PatchParams::default(), Patch::Merge(json!({"status": {"phase": "Denied"}})));
        let now = Instant::now();
        for (until, holds) in [(None, false), (Some(now), false), (Some(now + Duration::from_secs(3600)), true)] {
            tell.send_replace(until);
            assert_eq!((lead.holds(), gates.get("gate-a").await.is_ok()), (holds, true), "{until:?}");
            let patched = gates.patch_status("gate-a", &params, &denied).await;
            assert_eq!((patched.is_ok(), api.world().writes.len()), (holds, usize::from(holds)), "{patched:?}");
        }
    }
}
