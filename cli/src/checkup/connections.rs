//! Limits on connections: queues of the listener, local ports, connection tracking.

use super::row::{Row, Status, Unit};
use super::{Generator, Service, Situation};
use crate::host::counters::{Listener, Ports};

/// Listeners of one service that are shown.
const MAX_LISTENERS: usize = 8;
/// The destinations of a snapshot: those beyond have fewer connections than any of these.
const KEPT_DESTINATIONS: usize = 16;
/// TIME_WAIT lasts so long (`TCP_TIMEWAIT_LEN`, `include/net/tcp.h`).
const TIME_WAIT_S: u64 = 60;

pub(super) fn rows(situation: &Situation<'_>) -> Vec<Row> {
    let mut rows = accept_queues(situation);
    rows.push(syn_queue(situation));
    rows.extend(situation.max_connections.map(|most| connections(situation, most)));
    rows.extend(situation.generator.map(|generator| ports(generator, situation.users)));
    rows.push(conntrack(situation));
    rows.extend(host_conntrack(situation));
    rows
}

fn accept_queues(situation: &Situation<'_>) -> Vec<Row> {
    let unknown = |why: &str| {
        let advice = "name the service with --pid or --listen, as root if it is another user's";
        vec![
            Row::of("accept queue", "listener.backlog", Unit::Count).lifted_by(&[], &[], advice).unknown(why),
        ]
    };
    match situation.service {
        None => vec![coming_listener(situation)],
        Some(Service { listeners: Err(why), .. }) => unknown(why),
        Some(Service { listeners: Ok(listeners), .. }) if listeners.is_empty() => unknown(
            "the process does not listen on any TCP port; --listen names the port that users connect to",
        ),
        Some(Service { listeners: Ok(listeners), .. }) => {
            // The shortest first, which are full first.
            let mut listeners: Vec<&Listener> = listeners.iter().collect();
            listeners.sort_by_key(|listener| (listener.backlog, listener.address));
            listeners.into_iter().take(MAX_LISTENERS).map(|found| accept_queue(situation, found)).collect()
        }
    }
}

/// The accept queue as the kernel has it: `listen`'s argument cut to somaxconn, both when listening began. It is full
/// when it holds more than that (`sk_acceptq_is_full`, `include/net/sock.h`), so one more waits. Connections that
/// nobody accepts meanwhile fill it; so a backlog below the number of users is no hard limit, but a burst of them all,
/// as at a start, depends on the service's accepting as fast.
fn accept_queue(situation: &Situation<'_>, listener: &Listener) -> Row {
    let Situation { users, snapshot, .. } = *situation;
    let backlog = u64::from(listener.backlog);
    let somaxconn = snapshot.queues.somaxconn;
    let cut = somaxconn.is_none_or(|most| most <= backlog || most < users);
    let tune: &[&str] = if cut { &["net.core.somaxconn"] } else { &[] };
    let counter = format!("listener.waiting[{}]", listener.address);
    let row = Row::of("accept queue", counter, Unit::Count)
        .counts(Some(listener.waiting.into()), Some(backlog))
        .lifted_by(
            tune,
            &["deploy.limits.backlog"],
            "have the service listen with a backlog of as many (listen(2)); somaxconn cuts it; restart it then",
        );
    let burst = format!("a burst of more than {} connections at once overflows it", backlog + 1);
    let is_filling = u64::from(listener.waiting) * 5 >= backlog.max(1) * 4;
    if is_filling {
        return row.warn(format!("{} wait to be accepted now; {burst}", listener.waiting));
    }
    row.warn_if(users > backlog, format!("{burst}, unless the service accepts them meanwhile"), burst.clone())
}

/// What a listener that is started now would get.
fn coming_listener(situation: &Situation<'_>) -> Row {
    let Situation { users, snapshot, backlog, .. } = *situation;
    let row = Row::of("accept queue", "net.core.somaxconn", Unit::Count).lifted_by(
        &["net.core.somaxconn"],
        &["deploy.limits.backlog"],
        "raise both before the service is started",
    );
    let Some(somaxconn) = snapshot.queues.somaxconn else {
        return row.unknown("net.core.somaxconn cannot be read");
    };
    let got = somaxconn.min(backlog);
    let message = format!("a listener that asks for {backlog} gets {got}; a burst of more overflows it");
    row.counts(Some(somaxconn), Some(backlog)).warn_if(users > got, message.clone(), message)
}

/// Half-open connections: bounded by the listener's backlog, and without cookies by `tcp_max_syn_backlog`, too
/// (`tcp_conn_request`, `net/ipv4/tcp_input.c`). With cookies a full queue drops nothing.
fn syn_queue(situation: &Situation<'_>) -> Row {
    let Situation { users, snapshot, .. } = *situation;
    let queues = &snapshot.queues;
    let row = Row::of("half-open connections", "net.ipv4.tcp_syncookies", Unit::Count)
        .counts(queues.syncookies, None)
        .lifted_by(
            &["net.ipv4.tcp_syncookies", "net.ipv4.tcp_max_syn_backlog"],
            &["deploy.limits.backlog"],
            "leave tcp_syncookies at 1",
        );
    match (queues.syncookies, queues.max_syn_backlog) {
        (None, _) => row.unknown("net.ipv4.tcp_syncookies cannot be read"),
        (Some(0), None) => {
            row.unknown("no cookies are sent, and net.ipv4.tcp_max_syn_backlog cannot be read")
        }
        (Some(0), Some(most)) => {
            let row = Row { counter: "net.ipv4.tcp_max_syn_backlog".to_owned(), ..row };
            let message = format!("without cookies, SYNs beyond {most} half-open connections are dropped");
            row.counts(None, Some(most)).warn_if(users > most, message.clone(), message)
        }
        (Some(2), _) => row.warn("each connection is made by cookie, which costs options of TCP"),
        (Some(_), _) => row.ok("where the queue is full, cookies are sent, and nothing is dropped"),
    }
}

/// Further clients of our service wait in the backlog until another one leaves, so they are not served.
fn connections(situation: &Situation<'_>, most: u64) -> Row {
    let row = Row::of("connections of the service", "deploy.limits.max_connections", Unit::Count)
        .counts(None, Some(most))
        .lifted_by(&[], &["deploy.limits.max_connections"], "raise it and deploy again");
    row.room(most, 1, situation.users, "the service takes so many at once")
}

/// A connection to one destination takes one port of the range that is not reserved, from each address
/// (ip-sysctl.rst, `ip_local_port_range`); so do those in TIME_WAIT.
fn ports(generator: &Generator, users: u64) -> Row {
    let lift = "widen the range, or connect from several addresses (--local-ips)";
    let row = Row::of("local ports", "ports.available", Unit::Count).lifted_by(
        &["net.ipv4.ip_local_port_range"],
        &["load.local_ips"],
        lift,
    );
    let Some(ports) = &generator.ports else {
        return row.unknown("net.ipv4.ip_local_port_range cannot be read");
    };
    let all = u64::from(ports.available) * generator.addresses.max(1);
    let Some(used) = used(ports, generator.target) else {
        return row.counts(None, Some(all)).unknown("the ports in use cannot be listed");
    };
    let row = row.counts(Some(used), Some(all));
    let free = all.saturating_sub(used);
    if !generator.keeps_connections {
        // What k6 and others call port churn: each port rests for a minute.
        let rate = all / TIME_WAIT_S;
        let message = format!(
            "each request takes a port for {TIME_WAIT_S} s and more: at most some {rate} a second without a reuse of ports"
        );
        return if free < users { row.fails(free + 1, message) } else { row.warn(message) };
    }
    row.room(free, 1, users, "a user takes one, as long as it is connected")
}

/// Ports to the target's; to any one place, where there is no target.
fn used(ports: &Ports, target: Option<u16>) -> Option<u64> {
    let destinations = ports.destinations.as_ref()?;
    let of_target = destinations
        .iter()
        .filter(|found| target.is_none_or(|port| found.destination.port() == port))
        .map(|found| u64::from(found.used()))
        .max();
    let least = destinations.iter().map(|found| u64::from(found.used())).min();
    let beyond = if destinations.len() >= KEPT_DESTINATIONS { least } else { None };
    Some(of_target.or(beyond).unwrap_or(0))
}

/// A connection is one entry, also on loopback: both directions are one tuple pair (`nf_conntrack_tuple_hash`). It
/// outlasts the connection: TIME_WAIT for two minutes.
fn conntrack(situation: &Situation<'_>) -> Row {
    let Situation { users, snapshot, .. } = *situation;
    let row = Row::of("connection tracking", "conntrack.entries", Unit::Count)
        .counts(snapshot.conntrack.entries, snapshot.conntrack.max)
        .lifted_by(
            &["net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"],
            &[],
            "raise both together, or exempt the service's traffic",
        );
    match (snapshot.conntrack.entries, snapshot.conntrack.max) {
        (Some(entries), Some(max)) => {
            let free = max.saturating_sub(entries);
            row.room(free, 1, users, "a user takes one entry, if its traffic is tracked")
        }
        _ if snapshot.conntrack.is_tracked == Some(false) => row.ok("the kernel tracks no connections"),
        _ => row.unknown(
            "nf_conntrack_count or nf_conntrack_max cannot be read from here; in the host's own namespace they can",
        ),
    }
}

/// The table of the host, where the service is in another network namespace: behind NAT, as a container's port is, it is
/// that one which fills. Whether there is NAT is not told, so it is a warning.
fn host_conntrack(situation: &Situation<'_>) -> Option<Row> {
    let host = situation.snapshot.host_conntrack.as_ref()?;
    let (entries, max) = (host.entries?, host.max?);
    let row = Row::of("connection tracking of the host", "conntrack.entries[host]", Unit::Count)
        .counts(Some(entries), Some(max))
        .lifted_by(
            &["net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"],
            &[],
            "raise both together on the host, or reach the service past its NAT",
        );
    let free = max.saturating_sub(entries);
    let row =
        row.room(free, 1, situation.users, "a user takes one entry, if the host forwards to the service");
    let message = row.message.clone();
    Some(match row.status {
        Status::WillFail { .. } => row.warn(message),
        _ => row,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::counters::Destination;

    fn ports(used: &[(u16, u32)]) -> Ports {
        let destination = |(port, connected): &(u16, u32)| Destination {
            source: [127, 0, 0, 1].into(),
            destination: ([127, 0, 0, 1], *port).into(),
            time_wait: 1,
            reusable: 0,
            connected: *connected,
        };
        let destinations = Some(used.iter().map(destination).collect());
        Ports { range: (1000, 1999), available: 1000, destinations }
    }

    #[test]
    fn the_targets_ports_count_and_not_those_of_others() {
        assert_eq!(used(&Ports { destinations: None, ..ports(&[]) }, Some(80)), None);
        assert_eq!(used(&ports(&[]), Some(80)), Some(0));
        assert_eq!(used(&ports(&[(443, 90), (80, 5)]), Some(80)), Some(6));
        assert_eq!(used(&ports(&[(443, 90), (80, 5)]), Some(81)), Some(0));
        assert_eq!(used(&ports(&[(443, 90), (80, 5)]), None), Some(91));
        // Where there are more destinations than are kept, the target may be just below the last of them.
        let many: Vec<(u16, u32)> = (1..=16).map(|port| (port, 100 - u32::from(port))).collect();
        assert_eq!(used(&ports(&many), Some(81)), Some(85));
    }
}
