#![no_main]
//! See `kybernis_fuzz::manifests`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| kybernis_fuzz::manifests::check(data));
