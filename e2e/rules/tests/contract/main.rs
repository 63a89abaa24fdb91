//! The contract, rule by rule: each test is named after the rule that it holds, and judges by what the far side executed.

mod bad_input;
mod decision;
mod keys;
mod life;
mod policy;
