//! What is counted, in the Prometheus text format.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::status::Status;

/// Where a review came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Inject,
    ValidatePods,
    ValidateObjects,
    StampDecisions,
    ValidateDecisions,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 5] =
        [Self::Inject, Self::ValidatePods, Self::ValidateObjects, Self::StampDecisions, Self::ValidateDecisions];

    /// The endpoint at this path.
    pub(crate) fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Inject => "/inject",
            Self::ValidatePods => "/validate/pods",
            Self::ValidateObjects => "/validate/objects",
            Self::StampDecisions => "/stamp/decisions",
            Self::ValidateDecisions => "/validate/decisions",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Inject => "inject",
            Self::ValidatePods => "validate_pods",
            Self::ValidateObjects => "validate_objects",
            Self::StampDecisions => "stamp_decisions",
            Self::ValidateDecisions => "validate_decisions",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Patched,
    Allowed,
    Refused,
    /// It could not be judged: no review, the wrong one, or no namespace.
    Failed,
}

impl Ended {
    const ALL: [Self; 4] = [Self::Patched, Self::Allowed, Self::Refused, Self::Failed];

    const fn label(self) -> &'static str {
        match self {
            Self::Patched => "patched",
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Counters of the reviews.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    reviews: [[AtomicU64; Ended::ALL.len()]; Endpoint::ALL.len()],
    micros: [AtomicU64; Endpoint::ALL.len()],
}

impl Metrics {
    pub(crate) fn count(&self, endpoint: Endpoint, ended: Ended, took: Duration) {
        if let Some(counter) = self.reviews.get(endpoint as usize).and_then(|row| row.get(ended as usize)) {
            counter.fetch_add(1, Relaxed);
        }
        if let Some(micros) = self.micros.get(endpoint as usize) {
            micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// All of them, and what the status tells.
    pub(crate) fn text(&self, status: &Status, can_sign: bool) -> String {
        let mut text = String::from(
            "# HELP kyb_webhook_reviews_total Admission reviews, by endpoint and outcome.\n# TYPE kyb_webhook_reviews_total counter\n",
        );
        let mut seconds = String::from(
            "# HELP kyb_webhook_review_duration_seconds Time from a review's body to its answer.\n# TYPE kyb_webhook_review_duration_seconds summary\n",
        );
        // Writing to a String does not fail.
        for (endpoint, (row, micros)) in Endpoint::ALL.iter().zip(self.reviews.iter().zip(&self.micros)) {
            let endpoint = endpoint.label();
            let mut count = 0;
            for (ended, counter) in Ended::ALL.iter().zip(row) {
                let (ended, value) = (ended.label(), counter.load(Relaxed));
                count += value;
                let _ = writeln!(text, "kyb_webhook_reviews_total{{endpoint=\"{endpoint}\",outcome=\"{ended}\"}} {value}");
            }
            let sum = Duration::from_micros(micros.load(Relaxed)).as_secs_f64();
            let _ = writeln!(seconds, "kyb_webhook_review_duration_seconds_sum{{endpoint=\"{endpoint}\"}} {sum}");
            let _ = writeln!(seconds, "kyb_webhook_review_duration_seconds_count{{endpoint=\"{endpoint}\"}} {count}");
        }
        let _ = write!(
            seconds,
            "# HELP kyb_webhook_certificate_expiry_timestamp_seconds When the certificate in service ends; 0 where that is not known.\n\
             # TYPE kyb_webhook_certificate_expiry_timestamp_seconds gauge\n\
             kyb_webhook_certificate_expiry_timestamp_seconds {}\n\
             # HELP kyb_webhook_ca_bundles_mended_total Entries of the webhook configurations whose caBundle was written.\n\
             # TYPE kyb_webhook_ca_bundles_mended_total counter\n\
             kyb_webhook_ca_bundles_mended_total {}\n\
             # HELP kyb_webhook_certificates_failing Whether the last attempt to keep the certificates failed.\n\
             # TYPE kyb_webhook_certificates_failing gauge\n\
             kyb_webhook_certificates_failing {}\n\
             # HELP kyb_webhook_decision_key_ready Whether decisions can be signed.\n\
             # TYPE kyb_webhook_decision_key_ready gauge\n\
             kyb_webhook_decision_key_ready {}\n",
            status.serving_until(),
            status.mended_total(),
            u8::from(status.problem().is_some()),
            u8::from(can_sign),
        );
        text + &seconds
    }
}
