#![no_main]
//! See `kybernis_fuzz::api`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::api::check(data));
