#![no_main]
//! See `kybernis_fuzz::head`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::head::check(data));
