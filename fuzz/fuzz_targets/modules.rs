#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| topwork_fuzz::modules(bytes));
