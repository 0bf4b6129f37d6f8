//! Feeds the response parser with anything, whole and in pieces, which must come to the same. The parser's own files
//! are included, since the program is no library. In `cli`, with `cargo install cargo-fuzz` and a nightly toolchain:
//!
//! ```text
//! mkdir -p fuzz/found && cargo +nightly fuzz run response fuzz/found fuzz/corpus/response -- -max_total_time=60
//! ```
//!
//! `fuzz/corpus` are the inputs that the tests go through as well (`response_tests.rs`); what is found there goes into
//! it by hand, named by what it is.
#![no_main]
#![allow(dead_code, reason = "the parser's files have more than is used here")]

#[path = "../../src/load/check.rs"]
mod check;
#[path = "../../src/load/chunked.rs"]
mod chunked;
#[path = "../../src/load/head.rs"]
mod head;
#[path = "../../src/load/response.rs"]
mod response;
#[path = "../../src/load/response_splits.rs"]
mod response_splits;
#[path = "../../src/load/set_cookies.rs"]
mod set_cookies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    response_splits::check(bytes);
});
