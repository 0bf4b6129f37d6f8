//! Settings that do harm without another one: what is asked before a plan is shown, and again before each write.

use super::plan::Row;
use super::status::Status;
use super::values::{Key, Values};
use crate::profile::PortSet;

const BUCKETS: &str = "net.netfilter.nf_conntrack_buckets";
const ENTRIES: &str = "net.netfilter.nf_conntrack_max";
const RANGE: &str = "net.ipv4.ip_local_port_range";
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";

/// Ports that a connection must not take before the service does, where the range comes to reach them.
const SERVICES: &[(&str, &str)] = &[
    ("etcd", "2379-2380"),
    ("MySQL", "3306"),
    ("PostgreSQL", "5432"),
    ("Redis", "6379"),
    ("Kafka", "9092"),
    ("the nodes of Kubernetes", "10248-10259"),
    ("memcached", "11211"),
    ("MongoDB", "27017-27019"),
    ("services of Kubernetes (NodePort)", "30000-32767"),
];

/// Sorts what others need before those others.
pub(super) fn rank(key: &Key) -> u8 {
    match key {
        Key::Module(_) => 0,
        Key::Sysctl(name) if [BUCKETS, RESERVED, "fs.nr_open"].contains(&name.as_str()) => 1,
        _ => 2,
    }
}

/// Refuses what is planned and would do harm with the other values as they are planned.
pub(super) fn refuse(rows: &mut [Row], values: &dyn Values) {
    let planned: Vec<(String, String)> = rows
        .iter()
        .filter(|row| row.status == Status::Planned)
        .map(|row| (row.key.name(), row.wanted.clone()))
        .collect();
    let value_of = |key: &str| {
        let planned = planned.iter().find(|(name, _)| name == key).map(|(_, wanted)| wanted.clone());
        planned.or_else(|| values.read(&Key::parse(key)?).ok())
    };
    for row in rows.iter_mut().filter(|row| row.status == Status::Planned) {
        let now = row.now.clone().unwrap_or_default();
        if let Some(reason) = harm(&row.key.name(), &now, &row.wanted, &value_of) {
            row.status = Status::Refused { reason };
        }
    }
}

/// Why `wanted` does harm, given what the other values are.
pub(super) fn harm(
    key: &str,
    now: &str,
    wanted: &str,
    value_of: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    match key {
        // Entries without buckets make long chains: each packet then walks them.
        ENTRIES => {
            let buckets: u64 = value_of(BUCKETS)?.parse().ok()?;
            (wanted.parse::<u64>().ok()? / 4 > buckets).then(|| {
                format!("over four entries for each of {buckets} buckets; raise nf_conntrack_buckets too")
            })
        }
        RANGE => {
            let added = range(wanted)?.without(&range(now).unwrap_or_default());
            let reserved = value_of(RESERVED).and_then(|held| PortSet::parse(&held)).unwrap_or_default();
            let open = added.without(&reserved);
            let taken: Vec<String> = SERVICES
                .iter()
                .filter_map(|(name, ports)| {
                    let ports = PortSet::parse(ports)?;
                    let free = ports.without(&ports.without(&open));
                    (!free.is_empty()).then(|| format!("{free} of {name}"))
                })
                .collect();
            (!taken.is_empty())
                .then(|| format!("connections could take {}; reserve them with {RESERVED}", taken.join(", ")))
        }
        _ => None,
    }
}

/// `10240 65535` as a set.
fn range(text: &str) -> Option<PortSet> {
    let (low, high) = text.split_once(' ')?;
    PortSet::parse(&format!("{low}-{high}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_guarded_by_the_ports_that_are_really_reserved() {
        const DEFAULT: &str = "32768 60999";
        let all = "10248-10259,11211,27017-27019,30000-32767";
        for (now, wanted, reserved, part) in [
            (DEFAULT, "10240 65535", "", Some("27017-27019 of MongoDB")),
            (DEFAULT, "10240 65535", "80", Some("30000-32767 of services of Kubernetes")),
            (
                DEFAULT,
                "10240 65535",
                "27017-27019,30000-32767",
                Some("10248-10259 of the nodes of Kubernetes"),
            ),
            (DEFAULT, "10240 65535", "10248-10259,11211,27017,30000-32767", Some("27018-27019 of MongoDB")),
            (DEFAULT, "10240 65535", all, None),
            (DEFAULT, "1024 65535", all, Some("6379 of Redis")),
            // Nothing that is added is a service's.
            (DEFAULT, "32768 65535", "", None),
            ("1024 61000", "1024 65535", "", None),
        ] {
            let found = harm(RANGE, now, wanted, &|_| Some(reserved.to_owned()));
            match part {
                Some(part) => {
                    assert!(found.as_ref().is_some_and(|text| text.contains(part)), "{found:?} {part}")
                }
                None => assert_eq!(found, None, "{wanted} {reserved}"),
            }
        }
    }
}
