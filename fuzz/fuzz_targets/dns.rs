#![no_main]
//! See `kybernis_fuzz::dns`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::dns::check(data));
