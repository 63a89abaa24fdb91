#![no_main]
//! See `kybernis_fuzz::headers`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::headers::check(data));
