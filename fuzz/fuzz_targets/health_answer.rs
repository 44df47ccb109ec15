#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lb::fuzzing::health_answer(bytes));
