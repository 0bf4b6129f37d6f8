//! The write-behind service: an HTTP API that acknowledges a write once it is in a durable journal, and a
//! worker that carries the journal into the database no faster than the database allows.

pub mod access;
pub mod api;
pub mod authorities;
mod background;
mod batches;
pub mod cache;
pub mod config;
pub mod contract;
pub mod device_io;
mod direct;
pub mod journal;
pub mod metrics;
pub mod operation;
mod rarely;
mod recall;
pub mod redis_link;
pub mod serve;
pub mod server_url;
pub mod store;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;
pub mod worker;
