//! Named ways to break one rule each, for the test build in which `cargo xtask mutate` shows that every rule's own test
//! notices. The list is `e2e/rules/mutations.tsv`. In every other build nothing is broken, and the optimiser knows it.

/// Whether this rule is to be broken now: its name stands in `KYB_MUTATE`.
#[cfg(feature = "mutations")]
pub fn broken(rule: &str) -> bool {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("KYB_MUTATE").unwrap_or_default()) == rule
}

/// Never.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn broken(_: &str) -> bool {
    false
}
