//! The other side of a request: a small server that notes what it got, and a small client.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request as it came in: its head (request line and headers, by line) and its body.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) head: Vec<String>,
    pub(crate) body: String,
}

/// A server that answers every request; its threads end with the test process.
pub(crate) struct WebServer {
    pub(crate) url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl WebServer {
    /// `answer`, the status line's end, such as `200 OK`, to all.
    pub(crate) fn start(answer: &'static str) -> Self {
        Self::answering(move |_| answer)
    }

    /// To each its answer, by how many requests came before it.
    pub(crate) fn answering(answer: impl Fn(usize) -> &'static str + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let notes = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (notes, answer) = (Arc::clone(&notes), answer.clone());
                // The client hanging up is the normal end.
                thread::spawn(move || serve(&stream, &answer, &notes).ok());
            }
        });
        Self { url, received }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

fn serve(
    stream: &TcpStream,
    answer: &dyn Fn(usize) -> &'static str,
    notes: &Mutex<Vec<Received>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let length = head
            .iter()
            .filter_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
            .next();
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let before = {
            let mut notes = notes.lock().unwrap();
            notes.push(Received { head, body });
            notes.len() - 1
        };
        // At once: small writes one by one would wait for each other's acknowledgement.
        let answer = format!("HTTP/1.1 {}\r\ncontent-length: 2\r\n\r\nok", answer(before));
        let mut stream = stream;
        stream.write_all(answer.as_bytes())?;
    }
}

/// One request on a connection of its own: status and body.
pub(crate) fn request(base: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    try_request(base, method, path, body).unwrap()
}

/// The same; `None` if nobody is there, or whoever was there is gone before the answer.
pub(crate) fn try_request(base: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let address = base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}
