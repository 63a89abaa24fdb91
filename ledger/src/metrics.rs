//! How the ledger does, in numbers, in the Prometheus text format (exposition format 0.0.4).

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds of the buckets in seconds: a commit is one sync of a disk, a millisecond on a good one.
const BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// What every tenant's writer counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    tenants: AtomicU64,
    in_doubt: AtomicU64,
    unknown: AtomicU64,
    appends: Durations,
}

/// How long something takes.
#[derive(Debug, Default)]
struct Durations {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Durations {
    fn observe(&self, took: Duration) {
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            if took.as_secs_f64() <= *bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What only those know who are asked at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) open_gates: usize,
    pub(crate) sidecars: usize,
}

impl Metrics {
    /// As a scraper reads them.
    pub(crate) fn text(&self, now: Now) -> String {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let mut text = String::new();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        for (name, help, number) in [
            ("kyb_ledger_tenants", "Tenants whose records are open.", read(&self.tenants)),
            ("kyb_ledger_sidecars", "Sidecars whose policy stream is open.", count(now.sidecars)),
            ("kyb_ledger_gates_open", "Gates that wait for people.", count(now.open_gates)),
            ("kyb_ledger_effects_in_doubt", "Effects of which nobody knows whether they happened.", read(&self.in_doubt)),
        ] {
            head(&mut text, name, "gauge", help);
            line(&mut text, name, number);
        }
        let name = "kyb_ledger_appends_unknown_total";
        head(&mut text, name, "counter", "Appends whose fate was not known, so that the journal was read again.");
        line(&mut text, name, read(&self.unknown));
        let name = "kyb_ledger_append_duration_seconds";
        head(&mut text, name, "histogram", "How long a commit takes. One answers many calls.");
        for (bound, bucket) in BUCKETS.iter().zip(&self.appends.buckets) {
            line(&mut text, &format!("{name}_bucket{{le=\"{bound}\"}}"), read(bucket));
        }
        line(&mut text, &format!("{name}_bucket{{le=\"+Inf\"}}"), read(&self.appends.count));
        line(&mut text, &format!("{name}_sum"), Duration::from_micros(read(&self.appends.micros)).as_secs_f64());
        line(&mut text, &format!("{name}_count"), read(&self.appends.count));
        text
    }
}

/// One tenant's part of the numbers, while its writer lives.
#[derive(Debug, Default)]
pub(crate) struct TenantMetrics {
    all: Arc<Metrics>,
    is_open: bool,
    in_doubt: u64,
}

impl TenantMetrics {
    pub(crate) fn of(all: &Arc<Metrics>) -> Self {
        Self { all: Arc::clone(all), is_open: false, in_doubt: 0 }
    }

    /// The tenant takes calls.
    pub(crate) fn open(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.all.tenants.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So many of its effects are in doubt now.
    pub(crate) fn in_doubt(&mut self, now: usize) {
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        // What wraps around in between is right in the sum.
        self.all.in_doubt.fetch_add(now.wrapping_sub(self.in_doubt), Ordering::Relaxed);
        self.in_doubt = now;
    }

    pub(crate) fn committed(&self, took: Duration) {
        self.all.appends.observe(took);
    }

    pub(crate) fn unknown(&self) {
        self.all.unknown.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for TenantMetrics {
    fn drop(&mut self) {
        self.in_doubt(0);
        if self.is_open {
            self.all.tenants.fetch_sub(1, Ordering::Relaxed);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_reads_the_sum_of_those_who_live() {
        let all = Arc::<Metrics>::default();
        let (mut one, mut other) = (TenantMetrics::of(&all), TenantMetrics::of(&all));
        one.open();
        one.open();
        other.open();
        for (of_one, of_other) in [(2, 5), (7, 1), (3, 4)] {
            one.in_doubt(of_one);
            other.in_doubt(of_other);
        }
        one.committed(Duration::from_micros(1500));
        one.unknown();
        let text = || all.text(Now { open_gates: 6, sidecars: 8 });
        let check = |lines: &[&str]| {
            let text = text();
            for line in lines {
                assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
            }
        };
        check(&[
            "kyb_ledger_tenants 2",
            "kyb_ledger_sidecars 8",
            "kyb_ledger_gates_open 6",
            "kyb_ledger_effects_in_doubt 7",
            "kyb_ledger_appends_unknown_total 1",
            "kyb_ledger_append_duration_seconds_bucket{le=\"0.001\"} 0",
            "kyb_ledger_append_duration_seconds_bucket{le=\"0.0025\"} 1",
            "kyb_ledger_append_duration_seconds_bucket{le=\"+Inf\"} 1",
            "kyb_ledger_append_duration_seconds_sum 0.0015",
        ]);
        drop(one);
        check(&["kyb_ledger_tenants 1", "kyb_ledger_effects_in_doubt 4", "kyb_ledger_append_duration_seconds_count 1"]);
    }
}
