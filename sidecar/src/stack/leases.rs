//! Leases of what is in flight: one Renew for all of them, and a lost one stops the bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kybernis_core::ids::EffectId;
use kybernis_core::machine::{Fence, Renew};
use kybernis_core::time::Millis;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::callers::Callers;
use crate::boot_clock::{BootClock, BootInstant};
use crate::control::Control;

/// How long a grant is held without a word from its sidecar.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How often the leases are renewed.
const EVERY: Duration = Duration::from_secs(10);
/// What a ledger that is away is left in peace for.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// How soon the ledger hears that a caller is gone: its successor may ask the same through another sidecar.
const LOOK: Duration = Duration::from_millis(200);

/// The same for messages.
pub(super) fn lease_ms() -> Millis {
    Millis::from_secs(LEASE.as_secs())
}

type Held = HashMap<(EffectId, Fence), watch::Sender<BootInstant>>;

/// The leases that this sidecar holds.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: Mutex<Held>,
}

/// One lease, for as long as its exchange lasts.
#[derive(Debug)]
pub(super) struct Lease {
    /// Absent where no ledger gave it.
    of: Option<(Arc<Leases>, (EffectId, Fence))>,
    end: watch::Receiver<BootInstant>,
}

impl Lease {
    /// Of a claim that this sidecar made by itself: nobody else counts on its end.
    pub(super) fn without_ledger(end: BootInstant) -> Self {
        Self { of: None, end: watch::channel(end).1 }
    }

    /// Its end, as renewals move it.
    pub(super) fn end(&self) -> watch::Receiver<BootInstant> {
        self.end.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((leases, name)) = &self.of {
            leases.held().remove(name);
        }
    }
}

impl Leases {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a fresh grant's lease, which ends at `end` unless it is renewed.
    pub(super) fn hold(self: &Arc<Self>, effect: EffectId, fence: Fence, end: BootInstant) -> Lease {
        let (tell, receive) = watch::channel(end);
        let name = (effect, fence);
        self.held().insert(name.clone(), tell);
        Lease { of: Some((Arc::clone(self), name)), end: receive }
    }

    /// What is in flight.
    pub(super) fn names(&self) -> Vec<(EffectId, Fence)> {
        self.held().keys().cloned().collect()
    }

    /// Renews for as long as the process lives, and brings the ledger what was seen of callers.
    pub(super) async fn keep(self: Arc<Self>, control: Control, callers: Arc<Callers>, clock: BootClock) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut renewed_at, mut failed_at) = (Instant::now(), None::<Instant>);
        loop {
            ticks.tick().await;
            let hurries = failed_at.is_none_or(|at| at.elapsed() >= AFTER_FAILURE) && callers.are_gone();
            if renewed_at.elapsed() < EVERY && !hurries {
                continue;
            }
            (renewed_at, failed_at) = (Instant::now(), None);
            let leases = self.names();
            let news = callers.news();
            if leases.is_empty() && news.seen().is_empty() {
                continue;
            }
            let renew = Renew { boot: control.boot().clone(), leases: leases.clone(), lease: lease_ms(), observed: news.seen().to_vec() };
            // Counted from before the call: the ledger cannot have counted from earlier.
            let end = clock.now().after(LEASE);
            match tokio::time::timeout(EVERY, control.renew((&renew).into())).await {
                Ok(Ok(lost)) => {
                    news.told();
                    self.renewed(&leases, &lost, end);
                }
                Ok(Err(error)) => {
                    failed_at = Some(Instant::now());
                    tracing::warn!(%error, leases = leases.len(), "leases could not be renewed");
                }
                Err(_) => tracing::warn!(leases = leases.len(), "the ledger did not answer a renewal in time"),
            }
        }
    }

    fn renewed(&self, asked: &[(EffectId, Fence)], lost: &[(EffectId, Fence)], end: BootInstant) {
        let held = self.held();
        for name in asked {
            let Some(tell) = held.get(name) else { continue };
            if lost.contains(name) {
                tracing::warn!(effect = %name.0, "a lease was lost: no further byte of its request is written");
                tell.send_replace(BootInstant::default());
            } else {
                tell.send_replace(end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_moves_what_is_kept_and_stops_what_is_lost() {
        let leases = Arc::new(Leases::default());
        let name = |text: &str| (EffectId::new(text).unwrap(), Fence::FIRST);
        let (kept, lost, late) = (name("eff-kept"), name("eff-lost"), name("eff-late"));
        let at = BootInstant::from_nanos;
        let hold = |of: &(EffectId, Fence)| leases.hold(of.0.clone(), of.1, at(30));
        let (kept_lease, lost_lease, late_lease) = (hold(&kept), hold(&lost), hold(&late));
        leases.renewed(&[kept.clone(), lost.clone()], std::slice::from_ref(&lost), at(40));
        assert_eq!(*kept_lease.end().borrow(), at(40));
        assert_eq!(*lost_lease.end().borrow(), at(0));
        assert_eq!(*late_lease.end().borrow(), at(30), "what was not asked for stays");
        drop(kept_lease);
        assert!(!leases.held().contains_key(&kept));
    }
}
