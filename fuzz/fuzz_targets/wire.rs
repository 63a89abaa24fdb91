#![no_main]
//! See `kybernis_fuzz::wire`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::wire::check(data));
