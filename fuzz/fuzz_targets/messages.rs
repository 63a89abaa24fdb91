#![no_main]
//! See `kybernis_fuzz::messages`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::messages::check(data));
