//! The loop: whatever changes, the whole cluster is looked at again, in phases. A burst of changes is one look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::apply::{self, Programmer};
use crate::backoff::Backoff;
use crate::build::build;
use crate::dereference::dereference;
use crate::facts::Facts;
use crate::lead::Lead;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::status::write::Writer;
use crate::status::{Now, View};
use crate::validate::{Validated, Validator};
use crate::watch::{Secrets, Watches};

/// A burst is over when nothing has changed for this long.
const QUIET: Duration = Duration::from_millis(200);
/// A burst that does not end is looked at this often.
const MOST: Duration = Duration::from_secs(2);
/// Without any change the cluster is looked at this often all the same: what was lost on the way is mended.
pub(crate) const RESYNC: Duration = Duration::from_secs(300);

/// The loop's tools.
pub(crate) struct Reconciler {
    pub(crate) client: Client,
    pub(crate) release: String,
    pub(crate) extra_roots: Option<String>,
    pub(crate) watches: Watches,
    pub(crate) secrets: Secrets,
    pub(crate) ledger: Ledger,
    pub(crate) writer: Writer,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) leads: Lead,
    /// Told once all is known.
    pub(crate) ready: watch::Sender<bool>,
}

/// How a pass went.
pub(crate) struct Pass {
    pub(crate) complete: bool,
    /// When something is due, whatever changes.
    pub(crate) again: Option<Instant>,
}

impl Pass {
    /// Until the next one: something changes, something is due, or what was not complete is tried again.
    pub(crate) async fn rest(self, backoff: &mut Backoff, wake: &Notify) {
        let due = if self.complete {
            backoff.reset();
            Instant::now() + RESYNC
        } else {
            Instant::now() + backoff.next()
        };
        let due = self.again.map_or(due, |again| again.min(due));
        if tokio::time::timeout_at(due, wake.notified()).await.is_ok() {
            settle(wake).await;
        }
    }
}

impl Reconciler {
    /// Works while this replica leads; returns when nobody tells any more who does.
    pub(crate) async fn run(mut self) {
        self.watches.ready().await;
        self.ready.send_replace(true);
        let mut leads = self.leads.clone();
        while leads.gained().await {
            tokio::select! {
                () = self.lead() => {}
                () = leads.lost() => {}
            }
            // What it saw last would keep an alert firing that the next leader has ended.
            self.count(&Validated::default(), &BTreeMap::new());
        }
    }

    async fn lead(&mut self) {
        // What another leader gave the ledger meanwhile is not known: everything is given again.
        let (mut programmer, mut validator) = (Programmer::default(), Validator::default());
        let mut backoff = Backoff::new();
        loop {
            let began = Instant::now();
            let pass = self.pass(&mut programmer, &mut validator).await;
            self.metrics.reconcile_seconds.observe(began.elapsed());
            self.metrics.reconciles.count(&if pass.complete { Ok(()) } else { Err(()) });
            pass.rest(&mut backoff, &self.wake).await;
        }
    }

    async fn pass(&mut self, programmer: &mut Programmer, validator: &mut Validator) -> Pass {
        let mut facts = dereference(&self.release, self.extra_roots.as_deref(), &self.watches, &mut self.secrets).await;
        facts.live = self.ledger.link().fleet.iter().flat_map(|fleet| fleet.tenants().map(str::to_owned)).collect();
        let facts = Arc::new(facts);
        let Some(validated) = validate(validator, &facts).await else { return Pass { complete: false, again: None } };
        let built = build(&facts, &validated);
        let (link, looked) = (self.ledger.link(), Instant::now());
        let (programmed, trusted) = tokio::join!(
            programmer.program(&link, looked, &built, &validated, &self.metrics),
            apply::trust(&self.client, &built, &self.metrics)
        );
        let expected = programmer.expected(&validated);
        self.count(&validated, &expected);
        // Sidecars may have taken the sets while the last one was sent.
        let link = self.ledger.link();
        let now = Now { wall: Timestamp::now(), steady: Instant::now() };
        let view = View { validated: &validated, expected: &expected, fleet: link.fleet.as_deref(), connected_since: link.since, now };
        let round = self.writer.write(&view, &self.metrics).await;
        // A ledger that is not connected wakes us when it is.
        let programmed = programmed || link.connection.is_none();
        let again = link.fleet.as_deref().and_then(|fleet| programmer.again(fleet, looked));
        Pass { complete: programmed && trusted && round.all_written, again: [again, round.again].into_iter().flatten().min() }
    }

    fn count(&self, validated: &Validated, expected: &BTreeMap<String, apply::Expected>) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let held = |expected: &&apply::Expected| expected.behind.is_some() || matches!(expected.trouble, Some(apply::Trouble::Held(_)));
        self.metrics.tenants_programmed.set(number(expected.values().filter(|expected| expected.trouble.is_none()).count()));
        self.metrics.tenants_held.set(number(expected.values().filter(held).count()));
        self.metrics.objects.set(number(validated.objects.len()));
        self.metrics.objects_refused.set(number(validated.objects.iter().filter(|(_, fault)| fault.is_some()).count()));
    }
}

/// Checks on a thread of its own: a thousand objects take seconds, and Leases are renewed meanwhile. `None` after a panic there,
/// which must not end what goes on well.
async fn validate(validator: &mut Validator, facts: &Arc<Facts>) -> Option<Validated> {
    let (mut mine, facts) = (std::mem::take(validator), Arc::clone(facts));
    let judged = tokio::task::spawn_blocking(move || {
        let validated = mine.validate(&facts);
        (mine, validated)
    });
    match judged.await {
        Ok((mine, validated)) => {
            *validator = mine;
            Some(validated)
        }
        Err(error) => {
            tracing::error!(%error, "the objects cannot be checked");
            None
        }
    }
}

/// Waits until a burst of changes is over.
pub(crate) async fn settle(wake: &Notify) {
    let limit = Instant::now() + MOST;
    while Instant::now() < limit {
        let until = limit.min(Instant::now() + QUIET);
        if tokio::time::timeout_at(until, wake.notified()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
pub(crate) mod stage;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fake_api::FakeApi;
    use crate::fixtures::live;
    use crate::ledger::fake::{Rig, synced};
    use crate::metrics::Outcome;

    #[tokio::test]
    async fn who_leads_no_more_says_nothing_of_the_cluster() {
        let (api, rig) = (FakeApi::new(), Rig::start().await);
        api.change(|world| {
            world.put("namespaces", "", "trading", json!({}));
            world.put("policies", "trading", "broken", json!({"spec": {"mode": "Sometimes"}}))
        });
        let _parts = stage::operate(&api, &rig);
        let told = |metrics: &Metrics| {
            [&metrics.tenants_held, &metrics.tenants_programmed, &metrics.objects, &metrics.objects_refused].map(|number| number.get())
        };
        rig.until_counted(|metrics| told(metrics) == [1, 0, 1, 1]).await;
        rig.tell_lead.send_replace(None);
        rig.until_counted(|metrics| told(metrics) == [0; 4]).await;
    }

    #[tokio::test]
    async fn what_another_leader_overwrote_is_given_again_though_nothing_happens() {
        let (api, rig) = (FakeApi::new(), Rig::start().await);
        let opted_in = json!({"metadata": {"labels": {"kybernis.io/inject": "enabled"}}});
        api.change(|world| world.put("namespaces", "", "trading", opted_in));
        let _tell = rig.stream([Ok(live("trading", "pod", b"another leader's", "")), synced()]);
        let _parts = stage::operate(&api, &rig);
        rig.until_counted(|metrics| metrics.programs.total(Outcome::Done) == 1).await;
        tokio::time::pause();
        tokio::time::advance(apply::GRACE).await;
        tokio::time::resume();
        rig.until_counted(|metrics| metrics.programs.total(Outcome::Done) == 2).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_look_and_one_without_end_is_looked_at_now_and_then() {
        let wake = Arc::new(Notify::new());
        let noise = Arc::clone(&wake);
        let began = Instant::now();
        let noisy = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(QUIET / 2).await;
                noise.notify_one();
            }
        });
        settle(&wake).await;
        assert_eq!(began.elapsed(), QUIET / 2 * 3 + QUIET);
        noisy.await.unwrap();
        let noise = Arc::clone(&wake);
        let endless = tokio::spawn(async move {
            loop {
                tokio::time::sleep(QUIET / 2).await;
                noise.notify_one();
            }
        });
        let began = Instant::now();
        settle(&wake).await;
        assert!(began.elapsed() >= MOST && began.elapsed() <= MOST + QUIET, "{:?}", began.elapsed());
        endless.abort();
    }
}
