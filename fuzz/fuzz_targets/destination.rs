#![no_main]
//! See `kybernis_fuzz::destination`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::destination::check(data));
