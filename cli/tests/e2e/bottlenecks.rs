//! Staged bottlenecks: each resource is made scarce for a real service under a real load, must be found and named with
//! what lifts it, and must not be found once that is done. Which one is found matters here, and never when.

use std::net::{SocketAddr, TcpStream, UdpSocket};

use serde_json::Value;

use crate::namespace::Namespace;
use crate::quota::Quota;
use crate::sandbox::{Sandbox, free_port};
use crate::staging::{Found, Service, bench, is_of_machine, names};
use crate::tune;
use crate::web::WebServer;

const SOMAXCONN: &str = "net.core.somaxconn";
const RANGE: &str = "net.ipv4.ip_local_port_range";
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";

/// A connection for each request of a crowd that comes at once.
const BURST: [&str; 9] =
    ["--vus", "2000", "--think", "0s", "--duration", "3s", "--timeout", "4s", "--no-connection-reuse"];

#[test]
fn a_full_accept_queue() {
    let (Some(namespace), sandbox) = (Namespace::new("a full accept queue"), Sandbox::new()) else { return };
    let backlog =
        |backlog: u32| format!("deploy: {{limits: {{backlog: {backlog}}}}}\nload: {{iterations: 8000}}");
    let profile = sandbox.profile("short", &backlog(16));
    namespace.set(SOMAXCONN, "16");
    let service = Service::start(&sandbox, "short", &namespace.enter(), &profile);
    let found = bench(&sandbox, &namespace.enter(), &profile, &service, &BURST);
    let first = found.first("accept-queue");
    assert_eq!(first["evidence"]["severity"], "error", "{first}");
    names(first, "tune", SOMAXCONN);
    names(first, "deploy", "deploy.limits.backlog");
    drop(service);

    let wanted = tune::profile(&sandbox, &[(SOMAXCONN, "at_least: 8192")]);
    namespace.scalekit(&sandbox, &["tune", "--yes", "-p", &wanted]).expect(0);
    let profile = sandbox.profile("long", &backlog(8192));
    let service = Service::start(&sandbox, "long", &namespace.enter(), &profile);
    bench(&sandbox, &namespace.enter(), &profile, &service, &BURST).none("accept-queue");
}

#[test]
fn local_ports_used_up() {
    let (Some(namespace), sandbox) = (Namespace::new("a lack of local ports"), Sandbox::new()) else {
        return;
    };
    let profile = sandbox.profile("ports", "load: {iterations: 4000}");
    let service = Service::start(&sandbox, "ports", &namespace.enter(), &profile);
    namespace.set(RANGE, "20000 20199");
    // Whoever connects to the same place takes from the same ports. (With a connection for each request alone the service
    // closes first, and waits in the client's stead.)
    let address = service.address();
    let connect = move || (0..195).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
    let neighbours = namespace.thread(connect).join().unwrap();
    let flags = ["--vus", "20", "--think", "0s", "--duration", "4s", "--no-connection-reuse"];
    let found = bench(&sandbox, &namespace.enter(), &profile, &service, &flags);
    let ports = found.about("ports");
    let own = ports.iter().find(|finding| finding["evidence"]["counter"] == "generator.no_free_port");
    let own = own.unwrap_or_else(|| panic!("{:#}", found.report["findings"]));
    names(own, "tune", RANGE);
    assert!(own["advice"].as_str().unwrap().contains("--local-ips"), "{own}");
    let counted = found.report["generator"]["no_free_port"].as_f64();
    assert_eq!(own["evidence"]["after"].as_f64(), counted, "{own}");
    // What the generator could not even try is no measurement of the service.
    found.output.expect(120);

    // The range is widened only where it takes no service's port.
    let wanted = [
        (RANGE, "at_least: [10240, 65535]"),
        (RESERVED, "includes: '10248-10259,11211,27017-27019,30000-32767'"),
    ];
    let wanted = tune::profile(&sandbox, &wanted);
    namespace.scalekit(&sandbox, &["tune", "--yes", "-p", &wanted]).expect(0);
    bench(&sandbox, &namespace.enter(), &profile, &service, &flags).none("ports");
    drop(neighbours);
}

#[test]
fn open_files_of_the_service_used_up() {
    // A namespace of its own, where it can be had, for the counters of the others' tests are not its own.
    let (namespace, sandbox) = (Namespace::new("a namespace beside the service's files"), Sandbox::new());
    let enter = namespace.as_ref().map(|namespace| namespace.enter().to_vec()).unwrap_or_default();
    let profile = sandbox.profile("files", "");
    let flags = ["--vus", "200", "--think", "200ms", "--duration", "4s", "--timeout", "2s"];
    for (limit, is_short) in [("128", true), ("4096", false)] {
        // Soft and hard: the service raises the one to the other.
        let limited = ["sh", "-c", "ulimit -n \"$0\" && exec \"$@\"", limit].map(str::to_owned);
        let service = Service::start(&sandbox, limit, &[&enter[..], &limited].concat(), &profile);
        let found = bench(&sandbox, &enter, &profile, &service, &flags);
        if !is_short {
            found.none("open-files");
            continue;
        }
        let first = found.first("open-files");
        let evidence = &first["evidence"];
        assert_eq!(
            (&evidence["severity"], &evidence["counter"]),
            (&"saturation".into(), &"process.open_files".into())
        );
        assert_eq!(evidence["limit"], 128.0, "{first}");
        names(first, "tune", "limits.nofile");
        assert!(first["advice"].as_str().unwrap().contains("LimitNOFILE"), "{first}");
        assert_eq!(found.about("open-files").len(), 1, "told of once");
    }
}

/// As many entries as the whole host's limit allows one namespace: lowering that limit would reach beyond the namespace.
const MOST_ENTRIES: u32 = 600_000;

#[test]
fn a_full_table_of_tracked_connections() {
    let (Some(namespace), sandbox) = (Namespace::new("connection tracking"), Sandbox::new()) else { return };
    let profile = sandbox.profile("tracked", "load: {iterations: 2000}");
    let flags = ["--vus", "10", "--think", "5ms", "--duration", "3s", "--no-connection-reuse"];
    let run = |namespace: &Namespace, name: &str, rules: &str| {
        namespace.output(&["nft", rules]);
        // Tracking is loaded with the first rule that asks for it.
        let max: u32 = namespace.get("net.netfilter.nf_conntrack_max").parse().unwrap();
        if max > MOST_ENTRIES {
            eprintln!(
                "SKIPPED: nf_conntrack_max is {max}, too many to fill; connection tracking is NOT tested"
            );
            return None;
        }
        namespace.set("net.netfilter.nf_conntrack_udp_timeout", "600");
        namespace.thread(move || send_to_many(max)).join().unwrap();
        let service = Service::start(&sandbox, name, &namespace.enter(), &profile);
        Some(bench(&sandbox, &namespace.enter(), &profile, &service, &flags))
    };
    // What arrives is dropped once it is tracked, so that nobody has to answer it.
    let tracked = "add table inet t; add chain inet t in { type filter hook input priority 0; }; \
                   add rule inet t in ct state invalid drop; add rule inet t in udp dport 9 drop";
    let Some(found) = run(&namespace, "full", tracked) else { return };
    let first = found.first("conntrack");
    names(first, "tune", "net.netfilter.nf_conntrack_max");
    assert!(first["advice"].as_str().unwrap().contains("exempt"), "{first}");

    // The same packets and the same load, exempt from tracking as the advice says.
    let Some(namespace) = Namespace::new("connection tracking") else { return };
    let exempt = format!(
        "{tracked}; add chain inet t early {{ type filter hook output priority -300; }}; \
         add chain inet t entry {{ type filter hook prerouting priority -300; }}; \
         add rule inet t early notrack; add rule inet t entry notrack"
    );
    if let Some(found) = run(&namespace, "exempt", &exempt) {
        found.none("conntrack");
        assert_eq!(found.report["counters"]["deltas"]["conntrack.entries"]["after"], 0.0);
    }
}

/// A datagram to each of so many addresses of the loopback, each a connection of its own to whoever tracks them.
fn send_to_many(count: u32) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for at in 0..count {
        let [_, high, middle, low] = at.to_be_bytes();
        // A full table refuses the rest.
        let _ = socket.send_to(b"x", SocketAddr::from(([127, high | 64, middle, low], 9)));
    }
}

#[test]
fn a_cpu_quota_used_up() {
    let (Some(namespace), sandbox) = (Namespace::new("a CPU quota"), Sandbox::new()) else { return };
    let Some(quota) = Quota::new("service") else {
        eprintln!("SKIPPED: this user may not make a cgroup with a CPU quota; a CPU quota is NOT tested");
        return;
    };
    let profile = sandbox.profile("quota", "");
    let enter = namespace.enter();
    let service = Service::start(&sandbox, "quota", &[&enter[..], &quota.prefix()].concat(), &profile);
    let flags = ["--vus", "50", "--think", "0s", "--duration", "4s"];
    let of_group = |found: &Found| {
        let is_own = |finding: &&Value| {
            finding["message"].as_str().unwrap().contains(quota.directory.to_str().unwrap())
        };
        found.about("cpu-quota").into_iter().filter(is_own).cloned().collect::<Vec<_>>()
    };
    let found = bench(&sandbox, &enter, &profile, &service, &flags);
    found.first("cpu-quota");
    let [finding] = &of_group(&found)[..] else { panic!("{:#}", found.report["findings"]) };
    names(finding, "deploy", &quota.file());

    quota.lift();
    let found = bench(&sandbox, &enter, &profile, &service, &flags);
    // The tests themselves may be in a group with a quota.
    assert_eq!(of_group(&found), Vec::<Value>::new());
    let known = &found.report["counters"]["deltas"];
    let counter = format!("cgroup.cpu_throttled[{}]", quota.directory.display());
    assert!(known[&counter]["after"].is_number(), "it was looked for: {known:#}");
    drop(service);
}

#[test]
fn a_healthy_run() {
    let (Some(namespace), sandbox) = (Namespace::new("a healthy run"), Sandbox::new()) else { return };
    let profile = sandbox.profile("healthy", "load: {vus: 5, think_time: 200ms, duration: 3s}");
    let output = namespace.scalekit(&sandbox, &["run", "-p", &profile]);
    let found = Found::of(&sandbox, output);
    let process = &found.report["counters"]["process"];
    assert_eq!((&process["chosen"], &process["name"]), (&"deployed".into(), &"scalekit".into()), "{process}");
    let own: Vec<&Value> = found.all().into_iter().filter(|finding| !is_of_machine(finding)).collect();
    assert_eq!(own, Vec::<&Value>::new());
    // On a machine that other tests fill, that is what is said.
    let says = found.output.stdout.contains("No saturated resource found");
    assert_eq!(says, found.all().is_empty(), "{}", found.output.stdout);
    let folder = sandbox.folders().remove(0);
    let again = sandbox.scalekit(&["validate", folder.to_str().unwrap()]);
    assert_eq!(again.stdout.contains("No saturated resource found"), says, "{}", again.stdout);
    sandbox.expect_clean();
}

#[test]
fn the_process_that_is_sampled_is_the_one_that_was_named_or_the_report_says_it_is_none() {
    let (sandbox, server) = (Sandbox::new(), WebServer::start("200 OK"));
    let profile = sandbox.profile("named", "");
    let flags = ["--vus", "2", "--think", "50ms", "--duration", "1s"];
    let own = std::process::id();
    let bench = |url: &str, more: &[&str]| {
        let bench = ["bench", "-p", &profile, "--url", url];
        Found::of(&sandbox, sandbox.scalekit(&[&bench[..], &flags, more].concat()))
    };
    let named = bench(&server.url, &["--pid", &own.to_string()]);
    let process = &named.report["counters"]["process"];
    assert_eq!((&process["chosen"], &process["pid"]), (&"named".into(), &own.into()), "{process}");
    let deltas = &named.report["counters"]["deltas"];
    assert!(
        deltas["process.open_files"]["after"].is_number()
            && deltas["generator.open_files"]["after"].is_number()
    );
    // A socket that nobody listens on: there is no service.
    let nobody = bench(&format!("http://127.0.0.1:{}/", free_port()), &[]);
    let counters = &nobody.report["counters"];
    assert_eq!(counters["process"]["chosen"], "generator", "{}", counters["process"]);
    assert!(
        nobody.output.stdout.contains("of the service's host nothing is known"),
        "{}",
        nobody.output.stdout
    );
    assert!(counters["deltas"]["process.open_files"].is_null(), "{}", counters["deltas"]);
    assert!(counters["deltas"]["generator.open_files"]["after"].is_number(), "{}", counters["deltas"]);
    let unknown =
        counters["unknown"].as_array().unwrap().iter().find(|unknown| unknown["id"] == "open-files");
    assert!(unknown.is_some(), "{}", counters["unknown"]);
    let absent = ["bench", "-p", &profile, "--url", &server.url, "--pid", "4294967295"];
    sandbox.scalekit(&absent).expect(104).says(&["4294967295", "--pid"]);
}

/// Ten thousand connections at once, which all have to be listed.
#[test]
#[ignore = "a measurement with 10,000 connections; for a release build"]
fn sampling_takes_less_than_a_hundredth_of_a_core() {
    let sandbox = Sandbox::new();
    let run = ["run", "-p", "seed-10k", "--duration", "15s"];
    let output = sandbox.scalekit(&run);
    assert!(!output.stderr.contains("ulimit"), "SKIPPED is no pass here: {}", output.stderr);
    let found = Found::of(&sandbox, output);
    let counters = &found.report["counters"];
    let share = counters["cost_share"].as_f64().unwrap();
    println!("{} samples took {:.3}% of a core", counters["at_ms"].as_array().unwrap().len(), share * 100.0);
    assert!(
        counters["series"]["sockets.tcp"].as_array().unwrap().iter().any(|tcp| tcp.as_f64() > Some(10_000.0))
    );
    assert!(share < 0.01, "{share}");
}
