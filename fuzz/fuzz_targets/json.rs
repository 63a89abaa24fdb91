#![no_main]
//! See `kybernis_fuzz::json`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::json::check(data));
