//! Cookies from a profile to a server and back.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::sandbox::{Sandbox, read_json};

/// Heads of requests, in the order of their arrival.
type Heads = Arc<Mutex<Vec<String>>>;

/// Sets a cookie of its own for each login, and takes orders of who has one.
fn shop() -> (SocketAddr, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, heads) = (listener.local_addr().unwrap(), Heads::default());
    let log = Arc::clone(&heads);
    // Ends with the process; its connections end with the program under test.
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let log = Arc::clone(&log);
            std::thread::spawn(move || serve(&stream, &log));
        }
    });
    (address, heads)
}

fn serve(mut stream: &TcpStream, log: &Heads) {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let head: Vec<String> =
            lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let Some(first) = head.first() else { return };
        let number = {
            let mut log = log.lock().unwrap();
            log.push(head.join("\n"));
            log.len()
        };
        let has_session = head.iter().any(|line| line.starts_with("Cookie: session="));
        let (status, cookie) = match first.contains("/login") {
            true => ("200 OK", format!("Set-Cookie: session={number}; Path=/; HttpOnly\r\n")),
            false if has_session => ("200 OK", String::new()),
            false => ("401 Unauthorized", String::new()),
        };
        let reply = format!("HTTP/1.1 {status}\r\n{cookie}Content-Length: 2\r\n\r\nok");
        if stream.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

fn profile(address: SocketAddr, more: &str) -> String {
    format!(
        "extends: ci
load:
  scenario: steps
  url: http://{address}/
  vus: 3
  warmup: 0s
  duration: 30s
  think_time: 10ms
  iterations: 12
  steps:
    - {{name: login, path: /login, checks: {{status: [200]}}}}
    - {{name: order, path: /order, checks: {{status: [200]}}}}
{more}criteria:
  http_req_failed: ['rate==0']
"
    )
}

#[test]
fn an_order_needs_the_cookie_of_its_login() {
    let (address, heads) = shop();
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("with.yaml"), profile(address, "  cookies: true\n")).unwrap();
    fs::write(sandbox.path("without.yaml"), profile(address, "")).unwrap();
    sandbox.scalekit(&["bench", "-p", "without.yaml"]).expect(99);
    assert!(heads.lock().unwrap().drain(..).all(|head| !head.contains("Cookie")));

    for arguments in [&["bench", "-p", "with.yaml"][..], &["bench", "-p", "without.yaml", "--cookies"]] {
        let before = sandbox.folders();
        sandbox.scalekit(arguments).expect(0);
        let folder = sandbox.folders().into_iter().find(|folder| !before.contains(folder)).unwrap();
        let report = read_json(&folder.join("report.json"));
        assert_eq!(report["profile"]["load"]["cookies"], true, "{}", report["profile"]);
        let heads: Vec<String> = heads.lock().unwrap().drain(..).collect();
        let (orders, logins): (Vec<_>, Vec<_>) = heads.iter().partition(|head| head.contains("/order"));
        assert_eq!((logins.len(), orders.len()), (12, 12));
        assert!(logins.iter().all(|head| !head.contains("Cookie")), "each iteration starts without");
        let mut sessions: Vec<_> = orders.iter().map(|head| head.split("Cookie: ").nth(1).unwrap()).collect();
        sessions.sort_unstable();
        sessions.dedup();
        assert_eq!(sessions.len(), 12, "each order has the session of its own login");
    }
}

#[test]
fn whether_to_keep_cookies_is_yes_or_no() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("bad.yaml"), "load:\n  cookies: some\n").unwrap();
    sandbox.scalekit(&["run", "-p", "bad.yaml"]).expect(104).says(&["bad.yaml:2:12", "cookies", "boolean"]);
    assert!(sandbox.folders().is_empty());
}
