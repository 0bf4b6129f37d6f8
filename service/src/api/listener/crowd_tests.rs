//! Real sockets again: a connection of a crowd, which rests between its requests, is served like any other.

use super::tests::*;
use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const KEPT: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";

/// Reads answers until one ends so, and says all that came.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    let reading = async {
        while !answer.ends_with(end.as_bytes()) {
            let read = stream.read(&mut part).await.unwrap();
            assert_ne!(read, 0, "it is closed after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..read]);
        }
    };
    let ended = tokio::time::timeout(LONG, reading).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(ended.is_ok(), "only {answer:?}");
    answer
}

#[tokio::test]
async fn it_is_kept_open_over_many_requests() {
    let server = Server::crowded(Patience::USUAL);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(server.connect().await);
    }
    for _ in 0..3 {
        for client in &mut clients {
            client.write_all(KEPT).await.unwrap();
        }
        for client in &mut clients {
            let answer = until(client, "fine").await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("close"), "{answer}");
            client.write_all(POST).await.unwrap();
            assert!(until(client, "hello").await.starts_with("HTTP/1.1 200 "));
        }
    }
    server.end().await;
}

#[tokio::test]
async fn what_is_sent_before_the_answer_is_not_lost() {
    let server = Server::crowded(Patience::USUAL);
    let mut client = server.connect().await;
    let two = [KEPT, POST].concat();
    client.write_all(&two).await.unwrap();
    until(&mut client, "hello").await;
    for cut in 1..two.len() {
        client.write_all(&two[..cut]).await.unwrap();
        if cut == KEPT.len() {
            until(&mut client, "fine").await;
        } else {
            // Long enough to be read, and for the connection to rest if it did so now.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.write_all(&two[cut..]).await.unwrap();
        let answer = until(&mut client, "hello").await;
        assert!(!answer.contains("close"), "{answer}");
    }
    server.end().await;
}

#[tokio::test]
async fn who_asks_for_nothing_is_cut_off_in_time() {
    let server = Server::crowded(SHORT);
    for (asks, begins_to_ask) in [(false, false), (true, false), (true, true)] {
        let mut client = server.connect().await;
        if asks {
            client.write_all(KEPT).await.unwrap();
            until(&mut client, "fine").await;
        }
        if begins_to_ask {
            client.write_all(b"GET /").await.unwrap();
        }
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(LONG, client.read_to_end(&mut rest)).await;
        ended.expect("it stays open").unwrap();
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }
    server.empties().await;
    server.end().await;
}

#[tokio::test]
async fn requests_that_hang_do_not_keep_the_others_waiting() {
    let server = Server::crowded(Patience::USUAL);
    let mut waits = server.connect().await;
    waits.write_all(KEPT).await.unwrap();
    until(&mut waits, "fine").await;
    let mut stuck = Vec::new();
    for sent in [&b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"GET / HT", &POST[..POST.len() - 1]] {
        let mut client = server.connect().await;
        // No longer new, so that it is in the line.
        client.write_all(KEPT).await.unwrap();
        until(&mut client, "fine").await;
        client.write_all(sent).await.unwrap();
        stuck.push(client);
    }
    let started = Instant::now();
    waits.write_all(KEPT).await.unwrap();
    until(&mut waits, "fine").await;
    assert!(started.elapsed() > Duration::from_millis(250), "it did not rest, or needed no turn");
    assert!(started.elapsed() < Duration::from_secs(10), "it waits for all of them to be cut off");
    assert!(server.ask(GET).await.ends_with("fine"), "nor a new one");
    // And they are served when they go on.
    stuck[2].write_all(&POST[POST.len() - 1..]).await.unwrap();
    until(&mut stuck[2], "hello").await;
    drop(stuck);
    server.end().await;
}

#[tokio::test]
async fn who_rests_is_closed_at_the_stop_and_who_waits_for_a_turn_is_served() {
    let server = Server::crowded(Patience::USUAL);
    let mut resting = server.connect().await;
    resting.write_all(KEPT).await.unwrap();
    until(&mut resting, "fine").await;
    let mut late = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.write_all(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        late.push(client);
    }
    server.settles(4).await;
    // One has its turn by now, and the requests of the others have arrived.
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop.cancel();
    let mut rest = Vec::new();
    assert_eq!(resting.read_to_end(&mut rest).await.unwrap(), 0);
    for mut client in late {
        assert!(ask(&mut client, "").await.ends_with("late"));
    }
    server.end().await;
}

#[tokio::test]
async fn a_resting_connection_takes_little_memory() {
    let (http, guard) = (http1::Builder::new(), None);
    let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 8).unwrap();
    let listener = TcpListener::from_std(socket).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let slots = Arc::new(Semaphore::new(1));
    let accepted = accept(&listener, &slots, None).await.unwrap();
    let host = Arc::new(Host {
        http,
        router: Router::new(),
        door: Door { guard, tls: None },
        patience: Patience::USUAL,
        metrics: Arc::default(),
        crowd: Crowd::new(slots, 1, 0),
        stop: CancellationToken::new(),
    });
    let size = size_of_val(&host.receive(accepted));
    // There are ten thousands of them. What is needed to answer a request is boxed.
    assert!(size <= 800, "{size} bytes");
}
