#![no_main]
//! See `kybernis_fuzz::policy`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::policy::check(data));
