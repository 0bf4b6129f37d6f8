//! What is known of kernel settings beforehand: whose they are, what their values mean, and which advice is folklore.

/// Where a setting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scope {
    /// In this network namespace.
    NetworkNamespace,
    /// On the whole host.
    Host,
}

/// Settings of the network that the whole host shares; the others below `net` are each namespace's own. By
/// `net_core_table`, `ipv4_table` and `nf_conntrack_standalone.c` of Linux 6.12, which registers these for the first
/// namespace only or keeps them read-only in others.
const HOST_WIDE: &[&str] = &[
    "net.core.bpf_",
    "net.core.devconf_inherit_init_net",
    "net.core.fb_tunnels_only_for_init_net",
    "net.core.busy_",
    "net.core.default_qdisc",
    "net.core.dev_weight",
    "net.core.flow_limit_",
    "net.core.gro_",
    "net.core.high_order_alloc_disable",
    "net.core.max_skb_frags",
    "net.core.mem_pcpu_rsv",
    "net.core.message_",
    "net.core.netdev_",
    "net.core.rmem_",
    "net.core.rps_",
    "net.core.skb_defer_max",
    "net.core.tstamp_allow_data",
    "net.core.warnings",
    "net.core.wmem_",
    "net.ipv4.inet_peer_",
    "net.ipv4.neigh.default.gc_",
    "net.ipv4.route.error_",
    "net.ipv4.route.gc_",
    "net.ipv4.route.max_size",
    "net.ipv4.route.redirect_",
    "net.ipv4.tcp_allowed_congestion_control",
    "net.ipv4.tcp_available_congestion_control",
    "net.ipv4.tcp_low_latency",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.tcp_mem",
    "net.ipv4.udp_mem",
    "net.netfilter.nf_conntrack_buckets",
    "net.netfilter.nf_conntrack_expect_max",
    "net.netfilter.nf_conntrack_max",
    "net.ipv6.neigh.default.gc_",
    "net.nf_conntrack_max",
];

pub(crate) fn scope(key: &str) -> Scope {
    let of_namespace = key.starts_with("net.") && !HOST_WIDE.iter().any(|prefix| key.starts_with(prefix));
    if of_namespace { Scope::NetworkNamespace } else { Scope::Host }
}

/// What the numbers of a key mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// More is more: never lowered unless that is allowed.
    Capacity,
    /// From the first port to the last: widens.
    Range,
    /// A set of ports: grows.
    Ports,
    /// A mode, a time or a share: neither direction is a loss of capacity.
    Choice,
}

/// Settings of which more is more. What is in neither list is a capacity for `at_least`, and a choice for `equals`.
const CAPACITIES: &[&str] = &[
    "fs.aio-max-nr",
    "fs.epoll.max_user_watches",
    "fs.file-max",
    "fs.inotify.max_",
    "fs.mqueue.",
    "fs.nr_open",
    "fs.pipe-",
    "kernel.msgm",
    "kernel.pid_max",
    "kernel.sem",
    "kernel.shm",
    "kernel.threads-max",
    "net.core.netdev_budget",
    "net.core.netdev_max_backlog",
    "net.core.optmem_max",
    "net.core.rmem_",
    "net.core.somaxconn",
    "net.core.wmem_",
    "net.ipv4.neigh.default.gc_thresh",
    "net.ipv4.route.max_size",
    "net.ipv4.tcp_max_",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.udp_mem",
    "net.ipv4.udp_rmem_min",
    "net.ipv4.udp_wmem_min",
    "net.ipv6.neigh.default.gc_thresh",
    "net.ipv6.route.max_size",
    "net.netfilter.nf_conntrack_buckets",
    "net.netfilter.nf_conntrack_expect_max",
    "net.netfilter.nf_conntrack_max",
    "net.nf_conntrack_max",
    "net.unix.max_dgram_qlen",
    "vm.max_map_count",
];

const CHOICES: &[&str] = &[
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_fastopen",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_",
    "net.ipv4.tcp_migrate_req",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_tw_reuse",
    "net.netfilter.nf_conntrack_tcp_timeout_",
    "vm.dirty_",
    "vm.overcommit_memory",
    "vm.swappiness",
];

/// What the numbers mean to a wish of `equals`, or else of `at_least`.
pub(crate) fn meaning_for(key: &str, equals: bool) -> Meaning {
    match meaning(key) {
        Meaning::Capacity if equals && !CAPACITIES.iter().any(|prefix| key.starts_with(prefix)) => {
            Meaning::Choice
        }
        meaning => meaning,
    }
}

pub(crate) fn meaning(key: &str) -> Meaning {
    match key {
        "net.ipv4.ip_local_port_range" => Meaning::Range,
        "net.ipv4.ip_local_reserved_ports" => Meaning::Ports,
        _ if CHOICES.iter().any(|prefix| key.starts_with(prefix)) => Meaning::Choice,
        _ => Meaning::Capacity,
    }
}

/// Settings of which writing one zeroes the other, so that a 0 is not given back by writing it (`dirty_bytes_handler`,
/// which takes no 0, and `overcommit_kbytes_handler`, which would zero both).
const TWINS: &[(&str, &str)] = &[
    ("vm.dirty_bytes", "vm.dirty_ratio"),
    ("vm.dirty_background_bytes", "vm.dirty_background_ratio"),
    ("vm.overcommit_kbytes", "vm.overcommit_ratio"),
];

pub(crate) fn twin(key: &str) -> Option<&'static str> {
    TWINS.iter().find_map(|(one, other)| match key {
        _ if key == *one => Some(*other),
        _ if key == *other => Some(*one),
        _ => None,
    })
}

/// Two names of one setting.
const ALIASES: &[(&str, &str)] = &[("net.nf_conntrack_max", "net.netfilter.nf_conntrack_max")];

pub(crate) fn alias(key: &str) -> Option<&'static str> {
    ALIASES.iter().find_map(|(one, other)| match key {
        _ if key == *one => Some(*other),
        _ if key == *other => Some(*one),
        _ => None,
    })
}

/// Programs that keep settings to themselves and write them again.
const OWNERS: &[(&str, &str, &str)] = &[
    (
        "kube-proxy",
        "net.netfilter.nf_conntrack_",
        "set it with kube-proxy's --conntrack-max-per-core and --conntrack-tcp-timeout-*",
    ),
    ("bpftune", "net.ipv4.tcp_rmem", "bpftune grows it; stop bpftune, or leave it to it"),
    ("bpftune", "net.ipv4.tcp_wmem", "bpftune grows it; stop bpftune, or leave it to it"),
    ("bpftune", "net.core.netdev_max_backlog", "bpftune grows it; stop bpftune, or leave it to it"),
];

/// The program that owns the key if it runs, and what to do then.
pub(crate) fn owner(key: &str) -> Option<(&'static str, &'static str)> {
    OWNERS.iter().find(|(_, prefix, _)| key.starts_with(prefix)).map(|(owner, _, remedy)| (*owner, *remedy))
}

/// Why values of a key that counts pages of memory are refused; `ram` in bytes.
pub(crate) fn more_than_memory(key: &str, values: &[u64], ram: u64) -> Option<String> {
    // No page is smaller.
    const PAGE: u64 = 4096;
    let counts_pages = ["net.ipv4.tcp_mem", "net.ipv4.udp_mem"].contains(&key);
    let pages = ram / PAGE;
    let is_more = counts_pages && pages > 0 && values.iter().any(|value| *value > pages);
    is_more.then(|| format!("it counts pages of memory, not bytes, and this host has {pages} of them"))
}

/// Why a value is refused whatever the profile says.
pub(crate) fn folklore(key: &str, now: &[u64], wanted: &[u64]) -> Option<&'static str> {
    let first = wanted.first().copied()?;
    match key {
        "net.ipv4.tcp_tw_recycle" => Some("it breaks clients behind NAT, and Linux 4.12 removed it"),
        "net.ipv4.tcp_timestamps" if first == 0 => Some(
            "without timestamps there is neither tcp_tw_reuse nor protection against wrapped sequences (PAWS)",
        ),
        "net.ipv4.tcp_max_tw_buckets" if now.first().is_some_and(|now| first < *now) => {
            Some("ending TIME_WAIT early lets old segments into new connections")
        }
        "net.ipv4.tcp_fin_timeout" if first < 60 => {
            Some("it is about orphaned FIN_WAIT_2; TIME_WAIT is 60 s whatever it says")
        }
        "net.ipv4.tcp_syncookies" if first == 0 => Some("it is the last defence of a full SYN queue"),
        "net.ipv4.tcp_syncookies" if first >= 2 => {
            Some("unconditional cookies are for tests: they cost connections their options")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaced_is_what_the_kernel_keeps_for_each_namespace() {
        for (key, expected) in [
            ("net.core.somaxconn", Scope::NetworkNamespace),
            ("net.ipv4.ip_local_port_range", Scope::NetworkNamespace),
            ("net.ipv4.tcp_rmem", Scope::NetworkNamespace),
            ("net.netfilter.nf_conntrack_tcp_timeout_established", Scope::NetworkNamespace),
            ("net.netfilter.nf_conntrack_max", Scope::Host),
            ("net.core.netdev_max_backlog", Scope::Host),
            ("net.core.rmem_max", Scope::Host),
            ("net.core.mem_pcpu_rsv", Scope::Host),
            ("net.ipv4.neigh.default.gc_thresh3", Scope::Host),
            ("net.ipv6.neigh.default.gc_interval", Scope::Host),
            ("net.ipv4.route.max_size", Scope::Host),
            ("net.ipv4.route.min_pmtu", Scope::NetworkNamespace),
            ("net.nf_conntrack_max", Scope::Host),
            ("net.ipv4.tcp_mem", Scope::Host),
            ("vm.swappiness", Scope::Host),
            ("fs.file-max", Scope::Host),
        ] {
            assert_eq!(scope(key), expected, "{key}");
        }
    }

    #[test]
    fn folklore_is_refused_and_sense_is_not() {
        for (key, now, wanted, refused) in [
            ("net.ipv4.tcp_tw_recycle", &[][..], &[1][..], true),
            ("net.ipv4.tcp_timestamps", &[1], &[0], true),
            ("net.ipv4.tcp_timestamps", &[1], &[1], false),
            ("net.ipv4.tcp_max_tw_buckets", &[131_072], &[8192], true),
            ("net.ipv4.tcp_max_tw_buckets", &[131_072], &[262_144], false),
            ("net.ipv4.tcp_fin_timeout", &[60], &[15], true),
            ("net.ipv4.tcp_syncookies", &[1], &[0], true),
            ("net.ipv4.tcp_syncookies", &[1], &[2], true),
            ("net.ipv4.tcp_syncookies", &[0], &[1], false),
            ("net.core.somaxconn", &[4096], &[20_000], false),
        ] {
            assert_eq!(folklore(key, now, wanted).is_some(), refused, "{key} {wanted:?}");
        }
    }
}
