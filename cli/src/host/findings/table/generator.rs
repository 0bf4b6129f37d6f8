//! The load generator's own limits: what it could not even try says nothing of the service.
//!
//! Its open files have no threshold of utilisation: it raises its limit to what its users need and no further, so that it
//! is always near it.

use super::super::rule::Resource::{OpenFiles, Ports};
use super::super::rule::Severity::Error;
use super::super::rule::Test::Rises;
use super::super::rule::{Rule, rule};

pub(super) const RULES: &[Rule] = &[
    rule(
        Ports,
        Error,
        "generator.no_free_port",
        Rises,
        "the load generator found no free local port (EADDRNOTAVAIL)",
    )
    .optional()
    .lifted_by((
        &["net.ipv4.ip_local_port_range"],
        &["load.local_ips", "load.connection_reuse"],
        "widen the range on the machine that makes the load, connect from more addresses (--local-ips), or \
         keep connections open; this is the generator's limit, not the service's",
    )),
    rule(
        OpenFiles,
        Error,
        "generator.too_many_files",
        Rises,
        "the load generator came to the limit on open files (EMFILE, ENFILE)",
    )
    .optional()
    .lifted_by((
        &["limits.nofile", "fs.file-max"],
        &[],
        "raise the limit of the process that makes the load (`ulimit -n`, LimitNOFILE=); this is the \
         generator's limit, not the service's",
    )),
];
