//! Many users at once: everyone is served, and memory stays small.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use super::super::trends::{Trend, Trends};
use super::crowd::Crowd;
use super::*;

fn transactions() -> Scenario {
    Scenario::Transactions {
        run: "k3f9x2ab".into(),
        items: 10_000,
        item_collection: "items".into(),
        write_collection: "orders".into(),
        reads: 5,
        writes: 3,
    }
}

#[test]
fn two_thousand_users() {
    if !alone("load::tests::scale::two_thousand_users") {
        return;
    }
    let crowd = Crowd::start();
    let plan = Plan { users: 2000, scenario: transactions(), ..plan_of(crowd.address, 500, 6000) }.below("");
    let (recording, growth) = growth_during(|| record(&plan));
    assert_eq!((recording.failed, recording.users_achieved), (0, 2000), "{:?}", recording.by_failure);
    assert_eq!((recording.ledger.totals().acknowledged, crowd.requests()), (6000, 6000));
    assert_eq!(crowd.connections(), 2000);
    assert!(recording.ledger.iter().map(|(user, ..)| user).collect::<BTreeSet<_>>().len() == 2000);
    // The server's side of 2,000 connections included.
    assert!(growth < 16 << 20, "{growth} bytes");
}

/// A server in a process of its own, so that both ends together do not exceed the limit on open files.
struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

impl ServerProcess {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "load::tests::scale::serve_until_told", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("serving on ").map(|(_, address)| address.parse().unwrap()))
            .unwrap();
        Self { child, address }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "the other process of ten_thousand_users"]
fn serve_until_told() {
    let crowd = Crowd::start();
    println!("serving on {}", crowd.address);
    // Ends with the parent.
    assert_eq!(std::io::stdin().read(&mut [0; 1]).unwrap(), 0);
}

#[test]
#[ignore = "takes a minute and most of two cores; run it alone"]
fn ten_thousand_users() {
    let server = ServerProcess::start();
    let plan = Plan {
        users: 10_000,
        scenario: transactions(),
        warmup: Duration::from_secs(5),
        ..plan(server.address, 800, 15_000)
    }
    .below("");
    let recording = record(&plan);
    let p = |trend: &Trend, quantile| trend.value_at_quantile(quantile) as f64 / 1000.0;
    let Trends { total, duration, lag, .. } = &recording.trends;
    println!(
        "{:.0} requests/s, {} failed, total p50 {:.2} p99 {:.2} max {:.2} ms, duration p50 {:.2} p99 {:.2} ms, lag \
         p50 {:.3} p99 {:.3} max {:.2} ms, busiest thread {:.0}%, resident {} MiB",
        recording.requests as f64 / recording.measured.as_secs_f64(),
        recording.failed,
        p(total, 0.5),
        p(total, 0.99),
        p(total, 1.0),
        p(duration, 0.5),
        p(duration, 0.99),
        p(lag, 0.5),
        p(lag, 0.99),
        p(lag, 1.0),
        recording.busiest_thread * 100.0,
        recording.max_rss_bytes >> 20,
    );
    assert_eq!((recording.failed, recording.users_achieved), (0, 10_000), "{:?}", recording.by_failure);
    assert!(recording.max_rss_bytes < 64 << 20);
}
