#![no_main]
//! See `kybernis_fuzz::events`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::events::check(data));
