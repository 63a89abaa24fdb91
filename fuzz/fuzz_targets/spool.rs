#![no_main]
//! See `kybernis_fuzz::spool`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::spool::check(data));
