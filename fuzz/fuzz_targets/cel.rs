#![no_main]
//! See `kybernis_fuzz::cel`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::cel::check(data));
