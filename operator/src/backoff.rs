//! Waits between tries: doubling, with jitter, so that operators and ledgers that fell together do not rise together.

use std::time::Duration;

/// The first wait's ceiling.
const MIN: Duration = Duration::from_millis(200);
/// The longest wait's ceiling: a ledger that is back is noticed within it.
const MAX: Duration = Duration::from_secs(15);

/// For loops that must not give up.
#[derive(Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
    chance: fn() -> f64,
}

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self { ceiling: MIN, chance }
    }

    /// The next wait: between half of the ceiling and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(0.5 + (self.chance)() / 2.0);
        self.ceiling = (self.ceiling * 2).min(MAX);
        wait
    }

    pub(crate) async fn wait(&mut self) {
        let wait = self.next();
        tokio::time::sleep(wait).await;
    }

    pub(crate) const fn reset(&mut self) {
        self.ceiling = MIN;
    }
}

/// Between 0 and 1.
fn chance() -> f64 {
    let [a, b, ..] = *uuid::Uuid::new_v4().as_bytes();
    f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_begin_anew() {
        let mut backoff = Backoff { ceiling: MIN, chance: || 1.0 };
        let waits: Vec<_> = (0..8).map(|_| backoff.next()).collect();
        assert_eq!(waits[..3], [MIN, MIN * 2, MIN * 4]);
        assert_eq!(waits[7], MAX);
        backoff.reset();
        assert_eq!(backoff.next(), MIN);
        let mut least = Backoff { ceiling: MIN, chance: || 0.0 };
        assert_eq!(least.next(), MIN / 2);
        assert!((0.0..=1.0).contains(&chance()));
    }
}
