//! How the operator does, in numbers. In the Prometheus text format (exposition format 0.0.4).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that is told.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a write to the API server or a call to the ledger ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed,
}

impl Outcome {
    const ALL: [Self; 2] = [Self::Done, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// Counts by outcome.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    done: Number,
    failed: Number,
}

impl Outcomes {
    const fn of(&self, outcome: Outcome) -> &Number {
        match outcome {
            Outcome::Done => &self.done,
            Outcome::Failed => &self.failed,
        }
    }

    /// Counts one that ended so.
    pub(crate) fn count<T, E>(&self, result: &Result<T, E>) {
        self.of(if result.is_ok() { Outcome::Done } else { Outcome::Failed }).add(1);
    }

    pub(crate) fn total(&self, outcome: Outcome) -> u64 {
        self.of(outcome).get()
    }
}

/// Bounds of the buckets in seconds: a pass takes milliseconds, one that compiles everything or waits for the ledger, seconds.
const BUCKETS: [f64; 8] = [0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

/// How long passes take.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    buckets: [Number; BUCKETS.len()],
    count: Number,
    micros: Number,
}

impl Durations {
    pub(crate) fn observe(&self, took: Duration) {
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            if took.as_secs_f64() <= *bound {
                bucket.add(1);
            }
        }
        self.count.add(1);
        self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// People's words on gates, by what became of them.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    pub(crate) recorded: Number,
    pub(crate) refused: Number,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) leading: Number,
    pub(crate) ledger_connected: Number,
    pub(crate) fleet_restarts: Number,
    pub(crate) reconciles: Outcomes,
    pub(crate) reconcile_seconds: Durations,
    pub(crate) programs: Outcomes,
    pub(crate) status_writes: Outcomes,
    pub(crate) trust_writes: Outcomes,
    pub(crate) watch_errors: Number,
    pub(crate) tenants_programmed: Number,
    pub(crate) tenants_held: Number,
    pub(crate) objects: Number,
    pub(crate) objects_refused: Number,
    pub(crate) gates_open: Number,
    pub(crate) gate_restarts: Number,
    pub(crate) gate_writes: Outcomes,
    pub(crate) decisions: Decisions,
}

impl Metrics {
    /// As a scraper reads them.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let gauges = [
            ("kyb_operator_leading", "Whether this replica acts.", &self.leading),
            ("kyb_operator_ledger_connected", "Whether the ledger tells who is live.", &self.ledger_connected),
            ("kyb_operator_tenants_programmed", "Tenants whose set the ledger has taken.", &self.tenants_programmed),
            ("kyb_operator_tenants_held", "Tenants that an object holds back.", &self.tenants_held),
            ("kyb_operator_objects", "Objects that people have written.", &self.objects),
            ("kyb_operator_objects_refused", "Objects that are not accepted.", &self.objects_refused),
            ("kyb_operator_gates_open", "Gates that wait for people.", &self.gates_open),
        ];
        for (name, help, number) in gauges {
            single(&mut text, name, "gauge", help, number.get());
        }
        single(&mut text, "kyb_operator_watch_errors_total", "counter", "Watches that broke and begin anew.", self.watch_errors.get());
        let help = "Streams of sidecars that began anew because a change was lost.";
        single(&mut text, "kyb_operator_fleet_restarts_total", "counter", help, self.fleet_restarts.get());
        let help = "Streams of gates that began anew because a change was lost.";
        single(&mut text, "kyb_operator_gate_restarts_total", "counter", help, self.gate_restarts.get());
        let name = "kyb_operator_gate_decisions_total";
        head(&mut text, name, "counter", "People's words on gates.");
        for (outcome, number) in [("recorded", &self.decisions.recorded), ("refused", &self.decisions.refused)] {
            line(&mut text, &format!("{name}{{outcome=\"{outcome}\"}}"), number.get());
        }
        let by_outcome = [
            ("kyb_operator_reconciles_total", "Passes over the cluster.", &self.reconciles),
            ("kyb_operator_programs_total", "Sets that were sent to the ledger.", &self.programs),
            ("kyb_operator_status_writes_total", "Statuses that were written.", &self.status_writes),
            ("kyb_operator_trust_writes_total", "Copies of the ledger's CA that were written.", &self.trust_writes),
            ("kyb_operator_gate_writes_total", "Gates that were made, told or removed, and decisions that were told.", &self.gate_writes),
        ];
        for (name, help, outcomes) in by_outcome {
            head(&mut text, name, "counter", help);
            for outcome in Outcome::ALL {
                line(&mut text, &format!("{name}{{outcome=\"{}\"}}", outcome.as_str()), outcomes.total(outcome));
            }
        }
        let (name, durations) = ("kyb_operator_reconcile_duration_seconds", &self.reconcile_seconds);
        head(&mut text, name, "histogram", "How long a pass takes.");
        for (bound, bucket) in BUCKETS.iter().zip(&durations.buckets) {
            line(&mut text, &format!("{name}_bucket{{le=\"{bound}\"}}"), bucket.get());
        }
        line(&mut text, &format!("{name}_bucket{{le=\"+Inf\"}}"), durations.count.get());
        line(&mut text, &format!("{name}_sum"), Duration::from_micros(durations.micros.get()).as_secs_f64());
        line(&mut text, &format!("{name}_count"), durations.count.get());
        text
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, &format!("# HELP {name}"), help);
    line(text, &format!("# TYPE {name}"), kind);
}

fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name} {value}");
}

fn single(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    head(text, name, kind, help);
    line(text, name, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_reads_every_number() {
        let metrics = Metrics::default();
        metrics.programs.count(&Ok::<(), ()>(()));
        metrics.programs.count(&Err::<(), ()>(()));
        metrics.reconcile_seconds.observe(Duration::from_millis(30));
        let text = metrics.text();
        for line in [
            "kyb_operator_leading 0",
            "kyb_operator_gates_open 0",
            "kyb_operator_gate_decisions_total{outcome=\"refused\"} 0",
            "kyb_operator_programs_total{outcome=\"done\"} 1",
            "kyb_operator_programs_total{outcome=\"failed\"} 1",
            "kyb_operator_reconcile_duration_seconds_bucket{le=\"0.025\"} 0",
            "kyb_operator_reconcile_duration_seconds_bucket{le=\"0.1\"} 1",
            "kyb_operator_reconcile_duration_seconds_bucket{le=\"+Inf\"} 1",
            "kyb_operator_reconcile_duration_seconds_sum 0.03",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
