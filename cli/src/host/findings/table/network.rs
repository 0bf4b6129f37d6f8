//! The network: queues of listeners, ports, connection tracking, TCP's memory, the backlog of packets.

use super::super::rule::Resource as R;
use super::super::rule::Severity::{Error, Saturation, Utilisation};
use super::super::rule::Test::{Rises, Share};
use super::super::rule::{Fact, Guard, Remedy, Rule, rule};

/// Where the listener's backlog is as high as somaxconn, or nobody knows.
const QUEUE: Remedy = (
    &["net.core.somaxconn"],
    &["deploy.limits.backlog"],
    "raise somaxconn, which cuts the listener's backlog, and that backlog, then restart the listener; if \
     it still fills, the service accepts too slowly",
);
/// Where it is below.
const OWN_BACKLOG: &[(Fact, Remedy)] = &[(
    Fact::OwnBacklog,
    (
        &[],
        &["deploy.limits.backlog"],
        "raise the backlog that the application asks for (its argument to listen()), then restart the \
         listener: it is below net.core.somaxconn, which alone lifts nothing; if it still fills, the \
         service accepts too slowly",
    ),
)];
const COOKIES: &str = "net.ipv4.tcp_syncookies";
const CONNTRACK: Remedy = (
    &["net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"],
    &[],
    "raise both together, or exempt the service's traffic from tracking",
);
/// 0 where no connection is tracked.
const TRACKED: &str = "conntrack.tracked";
const TCP_MEMORY: Remedy =
    (&["net.ipv4.tcp_mem"], &[], "fewer or smaller socket buffers (tcp_rmem, tcp_wmem), or more memory");

pub(super) const RULES: &[Rule] = &[
    rule(R::AcceptQueue, Error, "tcp.listen_overflows", Rises, "connections found the accept queue full")
        .lifted_by(QUEUE)
        .or_instead(OWN_BACKLOG),
    // (h)
    rule(
        R::AcceptQueue,
        Saturation,
        "listener.waiting",
        Share { of: "listener.backlog", at: 0.8 },
        "connections waited to be accepted",
    )
    .known_by("listener.most_waiting")
    .lifted_by(QUEUE)
    .or_instead(OWN_BACKLOG),
    rule(
        R::SynQueue,
        Error,
        "tcp.syn_queue_drops",
        Rises,
        "SYNs were dropped, too many connections being half open",
    )
    // Half-open connections are held against the listener's backlog (`inet_csk_reqsk_queue_is_full`), and dropped only
    // where there are no cookies; `tcp_max_syn_backlog` has a check of its own, below.
    .lifted_by((
        &["net.core.somaxconn", COOKIES],
        &["deploy.limits.backlog"],
        "set tcp_syncookies to 1, raise somaxconn, which cuts the listener's backlog, and that backlog, \
         which bounds this queue too, then restart the listener",
    ))
    .or_instead(&[(
        Fact::OwnBacklog,
        (
            &[COOKIES],
            &["deploy.limits.backlog"],
            "set tcp_syncookies to 1, raise the backlog that the application asks for (its argument to \
             listen()), which bounds this queue too, then restart the listener",
        ),
    )]),
    rule(
        R::SynQueue,
        Error,
        "tcp.listen_drops_other",
        Rises,
        "listeners dropped connections for another reason than a full accept queue",
    )
    // (h) A packet that fits no connection is one, now and then.
    .only_while(&[Guard::Rate { counter: "tcp.listen_drops_other", above: 1.0 }])
    .lifted_by((
        &["net.ipv4.tcp_mem"],
        &[],
        "look for memory pressure, of the machine and of TCP; a filter of the kernel (BPF, a security \
         module) may refuse connections too",
    ))
    // The only reader of tcp_max_syn_backlog (`tcp_conn_request`): it keeps the last quarter for known peers.
    .or_instead(&[(
        Fact::Is("tcp.syncookies", 0.0),
        (
            &["net.ipv4.tcp_max_syn_backlog", COOKIES],
            &[],
            "without cookies only so many connections may be half open: set tcp_syncookies to 1, or raise \
             tcp_max_syn_backlog",
        ),
    )]),
    rule(
        R::SynQueue,
        Saturation,
        "tcp.syn_queue_cookies",
        Rises,
        "SYNs were answered with cookies, too many connections being half open",
    )
    .lifted_by(QUEUE)
    .or_instead(OWN_BACKLOG),
    // What is cut short is free sooner: nothing failed.
    rule(
        R::Ports,
        Utilisation,
        "tcp.time_wait_overflows",
        Rises,
        "TIME_WAITs were cut short, there being too many",
    )
    .lifted_by((
        &["net.ipv4.tcp_max_tw_buckets"],
        &[],
        "keep connections open instead of opening new ones",
    )),
    // (h)
    rule(
        R::Ports,
        Utilisation,
        "ports.used",
        Share { of: "ports.available", at: 0.85 },
        "local ports to one destination were used up",
    )
    .known_by("ports.most_used")
    .lifted_by((
        &["net.ipv4.ip_local_port_range"],
        &[],
        "keep connections open, widen the range, or connect from more addresses",
    )),
    rule(R::Conntrack, Error, "conntrack.dropped", Rises, "packets were dropped, the table being full")
        .unless_zero(TRACKED)
        .lifted_by(CONNTRACK),
    rule(
        R::Conntrack,
        Error,
        "conntrack.early_dropped",
        Rises,
        "connections were forgotten, the table being full",
    )
    .unless_zero(TRACKED)
    .lifted_by(CONNTRACK),
    // netdata warns here.
    rule(
        R::Conntrack,
        Utilisation,
        "conntrack.entries",
        Share { of: "conntrack.max", at: 0.9 },
        "the table was nearly full",
    )
    .unless_zero(TRACKED)
    .lifted_by(CONNTRACK),
    rule(R::TcpMemory, Error, "tcp.aborts_on_memory", Rises, "connections were closed for want of memory")
        .lifted_by(TCP_MEMORY),
    rule(R::TcpMemory, Saturation, "tcp.memory_pressures", Rises, "TCP came under memory pressure")
        .lifted_by(TCP_MEMORY),
    // (h)
    rule(
        R::TcpMemory,
        Utilisation,
        "tcp.memory_pages",
        Share { of: "tcp.memory_pressure_pages", at: 0.85 },
        "the memory of TCP came near its limit",
    )
    .lifted_by(TCP_MEMORY),
    rule(
        R::NetworkBacklog,
        Error,
        "softnet.dropped",
        Rises,
        "packets were dropped before a processor could take them",
    )
    // (h) One in ten thousand: hosts drop a packet now and then, which TCP makes up for.
    .only_while(&[Guard::Part { counter: "softnet.dropped", of: "softnet.processed", above: 1e-4 }])
    .lifted_by((
        &["net.core.netdev_max_backlog"],
        &[],
        "raise it; with one queue and one busy core, spread it (RPS)",
    )),
];
