//! Each kind of ending lands in its class, exactly as often as the server saw it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::super::outcome::Failure;
use super::*;

/// Runs against a server and expects all requests of the plan to fail in one class, each of them seen by the server.
fn expect_failure(server: &Server, plan: &Plan, failure: Failure) -> Recording {
    let recording = record(plan);
    let planned = plan.iterations.unwrap();
    assert_eq!(recording.requests, planned);
    assert_eq!(recording.by_failure, BTreeMap::from([(failure, planned)]));
    // What was given up may be read late; what was sent does arrive.
    wait_until("the server's own count", || server.requests() >= planned);
    assert_eq!(server.requests(), planned);
    assert_eq!(fates(&recording), BTreeMap::from([(Fate::Unknown, planned)]));
    assert_eq!(recording.trends.total_succeeded.len(), 0);
    recording
}

#[test]
fn refused() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let recording = record(&plan(address, 0, 450));
    assert_eq!(recording.by_failure, BTreeMap::from([(Failure::Refused, recording.requests)]));
    assert_eq!(fates(&recording), BTreeMap::from([(Fate::NotSent, recording.requests)]));
    // A dead target is not hammered: at least 100 ms between a user's attempts.
    // The second user comes after a third of a second, the last one too late.
    assert!((3..=7).contains(&recording.requests), "{}", recording.requests);
    assert_eq!((recording.bytes_sent, recording.users_achieved), (0, 0));
    assert_eq!(recording.trends.duration.max(), 0, "k6's duration begins with a connection");
}

#[test]
fn reset_within_the_body() {
    let server = Server::start(|peer| {
        peer.request();
        peer.reset_on_close();
        peer.reply("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
        abort(peer);
    });
    expect_failure(&server, &plan_of(server.address, 20, 30), Failure::Reset);
}

/// Disconnects with a reset although the server keeps a second handle: connecting a socket to nowhere.
pub(super) fn abort(peer: &server::Peer) {
    use nix::libc;
    use std::os::fd::AsRawFd as _;
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    // SAFETY: the descriptor is open for as long as `peer` lives, and the address is a whole sockaddr that the
    // kernel only reads.
    let result = unsafe {
        libc::connect(peer.stream.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as u32)
    };
    assert_eq!(result, 0);
}

#[test]
fn closed_before_the_head() {
    let server = Server::start(|peer| {
        peer.request();
        peer.close();
    });
    expect_failure(&server, &plan_of(server.address, 20, 30), Failure::Eof);
}

#[test]
fn closed_within_the_body() {
    let server = Server::start(|peer| {
        peer.request();
        peer.reply("HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\npart");
        peer.close();
    });
    expect_failure(&server, &plan_of(server.address, 20, 30), Failure::Eof);
}

#[test]
fn garbage() {
    let server = Server::answering("SSH-2.0-OpenSSH_9.6\r\n", Duration::ZERO);
    expect_failure(&server, &plan_of(server.address, 20, 30), Failure::Malformed);
}

#[test]
fn endless_head() {
    let server = Server::start(|peer| {
        peer.request();
        peer.reply("HTTP/1.1 200 OK\r\n");
        let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
        while peer.reply(&line) {}
    });
    let recording = expect_failure(&server, &plan_of(server.address, 20, 30), Failure::Malformed);
    assert!(recording.bytes_received >= 64 * 1024 * recording.requests);
}

#[test]
fn no_answer_in_time() {
    let server = Server::start(|peer| while peer.request().is_some() {});
    let plan = Plan { timeout: millis(500), ..plan_of(server.address, 20, 6) };
    let recording = expect_failure(&server, &plan, Failure::ResponseTimeout);
    // Time-outs count at their elapsed time, in k6's duration too: all of it is sending and waiting.
    expect_time_outs(&plan, &recording);
    assert_eq!(recording.trends.receiving.max(), 0);
}

#[test]
fn endless_body_takes_no_memory() {
    if !alone("load::tests::outcomes::endless_body_takes_no_memory") {
        return;
    }
    let server = Server::start(|peer| {
        peer.request();
        // A terabyte: two gigabytes may well arrive in time over the loopback.
        peer.reply("HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n");
        let block = vec![b'x'; 256 * 1024];
        while peer.stream.write_all(&block).is_ok() {}
    });
    let plan = Plan { timeout: millis(700), ..plan_of(server.address, 100, 3) };
    let (recording, growth) = growth_during(|| expect_failure(&server, &plan, Failure::ResponseTimeout));
    expect_time_outs(&plan, &recording);
    assert!(recording.bytes_received > 16 << 20, "{}", recording.bytes_received);
    // The server's blocks included.
    assert!(growth < 12 << 20, "{growth} bytes");
}

#[test]
fn no_connection_in_time() {
    // A listener that accepts nothing, with its queue filled: further SYNs are dropped.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&address, millis(300)) {
        fillers.push(filler);
        assert!(fillers.len() < 64, "the queue of a listener with backlog 0 does not fill");
    }
    let recording = record(&Plan { timeout: millis(200), ..plan_of(address, 100, 6) });
    assert_eq!(recording.by_failure, BTreeMap::from([(Failure::ConnectTimeout, 6)]));
    assert_eq!(fates(&recording), BTreeMap::from([(Fate::NotSent, 6)]));
    // Three significant digits.
    assert!(recording.trends.total.min() >= 199_800, "{}", recording.trends.total.min());
}

#[test]
fn error_statuses() {
    for (response, status, fate) in [
        ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 500, Fate::Unknown),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", 503, Fate::Refused),
        ("HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 404, Fate::Refused),
    ] {
        let server = Server::answering(response, Duration::ZERO);
        let recording = record(&plan_of(server.address, 20, 30));
        assert_eq!(recording.by_status, BTreeMap::from([(status, 30)]));
        assert_eq!((recording.failed, recording.requests, server.requests()), (30, 30, 30));
        assert_eq!(fates(&recording), BTreeMap::from([(fate, 30)]));
        assert_eq!(server.connections(), 3, "an error status does not end a connection");
        assert_eq!(recording.users_achieved, 3);
    }
}

#[test]
fn every_framing_is_understood() {
    for response in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    ] {
        let server = Server::answering(response, Duration::ZERO);
        let recording = record(&plan_of(server.address, 10, 30));
        assert_eq!((recording.failed, server.connections()), (0, 3), "{response}");
        assert_eq!(server.requests(), 30);
    }
}

#[test]
fn a_body_may_end_with_the_connection() {
    let server = Server::start(|peer| {
        peer.request();
        peer.reply("HTTP/1.0 200 OK\r\n\r\nuntil the end");
        peer.close();
    });
    let recording = record(&plan_of(server.address, 20, 30));
    assert_eq!((recording.failed, server.requests()), (0, 30));
    assert_eq!(server.connections(), 30);
}

#[test]
fn head_requests_await_no_body() {
    let server = Server::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Duration::ZERO);
    let scenario = Scenario::request("HEAD", vec![], "");
    let recording = record(&Plan { scenario, ..plan_of(server.address, 20, 30) });
    assert_eq!((recording.failed, server.connections()), (0, 3));
}

#[test]
fn a_slow_body_counts_as_receiving() {
    let server = Server::start(|peer| {
        while peer.request().is_some() {
            for piece in ["HTTP/1.1 200 OK\r\nContent-", "Length: 6\r\n", "\r\na", "b", "cd", "ef"] {
                peer.reply(piece);
                std::thread::sleep(millis(50));
            }
        }
    });
    let recording = record(&plan_of(server.address, 10, 9));
    assert_eq!((recording.failed, server.requests()), (0, 9));
    let trends = &recording.trends;
    // The pauses before the last byte make 250 ms; three significant digits.
    assert!(trends.duration.min() >= 249_700, "{}", trends.duration.min());
    // Of it, what is no receiving is what this thread was late for the first byte: not for all nine of them.
    assert!(trends.receiving.max() >= 150_000, "{}", trends.receiving.max());
    let parts = upper_sum(&trends.sending) + upper_sum(&trends.waiting) + upper_sum(&trends.receiving);
    assert!(parts >= 9.0 * 249_700.0, "{parts}");
    assert_eq!(server.connections(), 3);
}

#[test]
fn an_answer_may_overtake_the_request() {
    let server = Server::start(|peer| {
        let mut first = [0; 1000];
        std::io::Read::read_exact(&mut peer.stream, &mut first).unwrap();
        peer.reply("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
        // Takes no more: the rest of the request can never be sent.
        std::thread::sleep(millis(300));
    });
    let scenario = Scenario::request("POST", vec![], &"0".repeat(20_000_000));
    let recording = record(&Plan { scenario, ..plan_of(server.address, 100, 3) });
    assert_eq!(recording.by_status, BTreeMap::from([(413, 3)]));
    assert!(recording.bytes_sent < 60_000_000);
    assert_eq!(fates(&recording), BTreeMap::from([(Fate::Refused, 3)]));
}

/// What a server says before it is asked may come with the very event that tells of the connection: the load begins
/// with many users at once, so that the server has spoken before most of those events are looked at.
#[test]
fn a_server_that_speaks_first_is_heard() {
    for (greeting, failure) in
        [("SSH-2.0-OpenSSH_9.6\r\n", Some(Failure::Malformed)), (OK, None), ("", Some(Failure::Eof))]
    {
        let server = Server::start(move |peer| {
            peer.reply(greeting);
            if greeting.is_empty() {
                peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            // Then it waits for the client's end.
            while std::io::Read::read(&mut peer.stream, &mut [0; 512]).is_ok_and(|count| count > 0) {}
        });
        let plan = Plan { users: 300, threads: 1, ..plan_of(server.address, 1, 300) };
        let recording = record(&plan);
        let by_failure = failure.map(|failure| (failure, 300)).into_iter().collect::<BTreeMap<_, _>>();
        assert_eq!(recording.by_failure, by_failure, "{greeting:?}");
    }
}

#[test]
fn what_nobody_asked_for_ends_the_connection() {
    let server = Server::answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxMORE", Duration::ZERO);
    let recording = record(&plan_of(server.address, 50, 12));
    assert_eq!((recording.requests, recording.failed), (12, 0));
    assert_eq!(server.connections(), 12);
}
