//! What the service promises while its parts fail: real processes, killed, stopped, cut off and starved under a load,
//! and judged by one checker (`scalekit_service::testing::checker`), which is itself shown a system broken on purpose.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod deployment;
mod disk;
mod evidence;
mod kills;
mod load;
mod long;
mod network;
mod poison;
mod power;
mod reads;
mod redis_faults;
mod sabotage;
#[path = "../e2e/sandbox.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
mod sandbox;
mod slow_database;
mod volume;
mod zombies;
