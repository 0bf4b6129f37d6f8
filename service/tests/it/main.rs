//! The service as its clients see it: real sockets, real files, a real Redis and a server that speaks
//! MongoDB's protocol.

#![allow(clippy::unwrap_used, reason = "tests, of which only the functions count as such")]

mod access;
mod dead_letters;
mod device;
mod direct;
mod errors;
mod faults;
mod harness;
mod lifecycle;
mod limits;
mod metrics;
mod openapi;
mod states;
mod system;
mod traces;
mod transactions;
mod workers;
mod writes;
