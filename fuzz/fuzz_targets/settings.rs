#![no_main]

#[path = "../../tests/support/heap.rs"]
mod heap;

libfuzzer_sys::fuzz_target!(|data: &[u8]| heap::run("settings", data));
