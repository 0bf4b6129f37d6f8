//! End to end: the built program as its users meet it, against real servers, judged by its exit status, its
//! output, its reports and what it leaves behind.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abort;
mod access;
mod accuracy;
mod agents;
mod api_server;
mod audit;
mod bad_servers;
mod bench;
mod bottlenecks;
mod cap;
mod cluster;
mod cookies;
mod deploy;
mod direct;
mod dlq;
mod doctor;
mod figures;
mod freeze;
mod honest;
mod interrupt;
mod manual;
mod namespace;
mod profiles;
mod quota;
mod report;
mod run;
mod sandbox;
mod serve;
mod servers;
mod staging;
mod step_log;
mod supervisor;
mod supervisor_faults;
mod systemd;
mod tune;
mod validate;
mod web;
