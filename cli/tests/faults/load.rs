//! A load whose every request, answer and read is noted for the checker: its own code, and not the product's load
//! generator, so that one bug cannot hide in both.
//!
//! The history is kept in memory: the faults are those of the service, and the test process outlives them all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use scalekit_service::contract::{operation_of, write_operation_id};
use scalekit_service::journal::WriteId;
use scalekit_service::testing::checker::{Change, Event, Fields};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longer than the service takes to give up.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// So long a client retries what it has no answer for.
const RETRY_LIMIT: Duration = Duration::from_secs(25);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Most requests of one client.
const MAX_REQUESTS: usize = 20_000;
/// Documents that a client alone writes, at a time.
const OWN_KEYS: usize = 3;
/// Collection of the documents that are inserted without an `Idempotency-Key`, each with a text of its own as `by`.
pub(crate) const NAMELESS: &str = "nameless";
/// Documents that all replace.
const SHARED_KEYS: usize = 4;

/// What happened so far, and how often each status came.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) events: Vec<Event>,
    pub(crate) statuses: BTreeMap<u16, usize>,
    /// Texts of inserts without a key that had no answer: nobody can know their ids.
    pub(crate) nameless_open: BTreeSet<String>,
}

/// What one request came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Accepted,
    Refused(u16),
    Open,
    /// There was nobody to take it.
    NotSent,
}

/// One client's hands: sends, and notes what comes of it.
#[derive(Clone)]
pub(crate) struct Hands {
    client: Client,
    url: String,
    log: Arc<Mutex<Log>>,
    accepted: watch::Sender<usize>,
}

impl Hands {
    pub(crate) fn new(url: &str) -> Self {
        let client = Client::builder().timeout(ANSWER_LIMIT).build().unwrap();
        let (log, accepted) = (Arc::default(), watch::channel(0).0);
        Self { client, url: url.to_owned(), log, accepted }
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    pub(crate) fn note(&self, event: Event) {
        self.log().events.push(event);
    }

    /// Announces an operation; then it may be tried, and tried again.
    pub(crate) fn invoke(&self, op: &str, writes: &[(String, Change)]) {
        self.note(Event::Invoke { op: op.to_owned(), writes: writes.to_vec() });
    }

    /// Sends an operation once.
    pub(crate) async fn attempt(&self, op: &str, writes: &[(String, Change)]) -> Answer {
        let (method, path, body) = request(writes);
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = request.header("Idempotency-Key", op).body(body.to_string());
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Answer::NotSent,
            Err(_) => return self.open(op),
        };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let Ok(text) = response.text().await else { return self.open(op) };
        *self.log().statuses.entry(status).or_default() += 1;
        match status {
            202 => {
                let answer: Value = serde_json::from_str(&text).unwrap();
                let write_id: WriteId = answer["write_id"].as_str().unwrap().parse().unwrap();
                self.note(Event::Accepted { op: op.to_owned(), version: write_id.position.version() });
                self.accepted.send_modify(|accepted| *accepted += 1);
                Answer::Accepted
            }
            504 => self.open(op),
            status => {
                if status == 503 {
                    let wait = headers.get("retry-after").and_then(|value| value.to_str().ok());
                    let wait: Option<u32> = wait.and_then(|wait| wait.parse().ok());
                    assert!(wait.is_some_and(|wait| wait > 0), "when to try again: {text}");
                }
                self.note(Event::Refused { op: op.to_owned(), status });
                Answer::Refused(status)
            }
        }
    }

    /// Inserts a document without a key, once. What it is called the answer says, so it is announced only then.
    pub(crate) async fn insert_nameless(&self, by: &str) -> Answer {
        let document = fields(json!({ "by": by }));
        let request = self.client.post(format!("{}/v1/{NAMELESS}", self.url));
        let open = || {
            self.log().nameless_open.insert(by.to_owned());
            Answer::Open
        };
        let response = match request.body(json!(document).to_string()).send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Answer::NotSent,
            Err(_) => return open(),
        };
        let status = response.status().as_u16();
        let Ok(text) = response.text().await else { return open() };
        *self.log().statuses.entry(status).or_default() += 1;
        match status {
            202 => {
                let answer: Value = serde_json::from_str(&text).unwrap();
                let id = answer["id"].as_str().unwrap();
                let op = operation_of(id).expect("it derives from an operation");
                let write_id: WriteId = answer["write_id"].as_str().unwrap().parse().unwrap();
                let key = format!("{NAMELESS}/{id}");
                self.invoke(op, &[(key.clone(), Change::Insert(document))]);
                self.note(Event::Accepted { op: op.to_owned(), version: write_id.position.version() });
                self.accepted.send_modify(|accepted| *accepted += 1);
                self.read(&key).await;
                Answer::Accepted
            }
            504 => open(),
            // Nothing was accepted, so a document that is there after all is a stranger.
            status => Answer::Refused(status),
        }
    }

    fn open(&self, op: &str) -> Answer {
        self.note(Event::Open { op: op.to_owned() });
        Answer::Open
    }

    /// Tries until the end is known, or for as long as a client would.
    pub(crate) async fn settle(&self, op: &str, writes: &[(String, Change)]) -> Answer {
        self.invoke(op, writes);
        let start = Instant::now();
        let mut is_open = false;
        loop {
            let answer = self.attempt(op, writes).await;
            is_open |= answer == Answer::Open;
            match answer {
                Answer::Accepted => return answer,
                Answer::Refused(_) if !is_open => return answer,
                _ if start.elapsed() > RETRY_LIMIT => return if is_open { Answer::Open } else { answer },
                _ => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Reads a document; noted if there is an answer.
    pub(crate) async fn read(&self, key: &str) {
        let Ok(response) = self.client.get(format!("{}/v1/{key}", self.url)).send().await else { return };
        let found = match response.status().as_u16() {
            404 => None,
            200 => match response.json::<Fields>().await {
                Ok(fields) => Some(fields),
                Err(_) => return,
            },
            _ => return,
        };
        self.note(Event::Read { key: key.to_owned(), found });
    }

    /// Waits until so many more were accepted.
    pub(crate) async fn accepts(&self, more: usize) {
        let mut accepted = self.accepted.subscribe();
        let enough = *accepted.borrow_and_update() + more;
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            // The sender is part of these hands.
            let _ = accepted.wait_for(|accepted| *accepted >= enough).await;
        });
        assert!(waited.await.is_ok(), "{more} more were not accepted: {:?}", self.log().statuses);
    }

    pub(crate) fn times(&self, status: u16) -> usize {
        self.log().statuses.get(&status).copied().unwrap_or(0)
    }

    /// Waits until this status has come so many more times.
    pub(crate) async fn sees(&self, status: u16, more: usize) {
        let enough = self.times(status) + more;
        let start = Instant::now();
        while self.times(status) < enough {
            assert!(start.elapsed() < Duration::from_secs(60), "no {status}: {:?}", self.log().statuses);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn request(writes: &[(String, Change)]) -> (Method, String, Value) {
    let parts = |key: &str| {
        let (collection, id) = key.split_once('/').unwrap();
        (collection.to_owned(), id.to_owned())
    };
    if let [(key, change)] = writes {
        let (collection, _) = parts(key);
        return match change {
            // Its id derives from the operation.
            Change::Insert(fields) => (Method::POST, format!("/v1/{collection}"), fields.clone().into()),
            Change::Replace(fields) => (Method::PUT, format!("/v1/{key}"), fields.clone().into()),
            Change::Merge(fields) => (Method::PATCH, format!("/v1/{key}"), fields.clone().into()),
            Change::Delete => (Method::DELETE, format!("/v1/{key}"), Value::Null),
        };
    }
    let writes = writes.iter().map(|(key, change)| {
        let (collection, id) = parts(key);
        match change {
            Change::Insert(fields) => json!({"collection": collection, "op": "insert", "document": fields}),
            Change::Replace(fields) => {
                json!({"collection": collection, "op": "replace", "id": id, "document": fields})
            }
            Change::Merge(fields) => {
                json!({"collection": collection, "op": "merge", "id": id, "document": fields})
            }
            Change::Delete => json!({"collection": collection, "op": "delete", "id": id}),
        }
    });
    (Method::POST, "/v1/transactions".into(), json!({ "writes": writes.collect::<Vec<_>>() }))
}

pub(crate) fn fields(value: Value) -> Fields {
    value.as_object().unwrap().clone()
}

/// An insert and the document that it makes.
pub(crate) fn insert(op: &str, value: Value) -> (String, Change) {
    (format!("orders/{}", write_operation_id(op, 0)), Change::Insert(fields(value)))
}

/// Clients that write until they are stopped.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(hands: &Hands, name: &str, clients: usize, pause: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let clients = (0..clients).map(|client| {
            let hands = hands.clone();
            let mut client = Writer::new(&format!("{name}-{client:02}"), hands, client);
            let stopped = stopped.clone();
            async move {
                while !*stopped.borrow() && client.sent < MAX_REQUESTS {
                    client.step().await;
                    tokio::time::sleep(pause).await;
                }
            }
        });
        Self { stop, clients: clients.collect() }
    }

    /// Lets each client finish what it is at.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
    }
}

/// One client of a load.
struct Writer {
    name: String,
    hands: Hands,
    random: fastrand::Rng,
    sent: usize,
    /// How often each of its documents was given up for a new one, since a write on it stayed open.
    generations: [usize; OWN_KEYS],
}

impl Writer {
    fn new(name: &str, hands: Hands, seed: usize) -> Self {
        let random = fastrand::Rng::with_seed(seed as u64);
        Self { name: name.to_owned(), hands, random, sent: 0, generations: [0; OWN_KEYS] }
    }

    async fn step(&mut self) {
        let op = format!("{}-{:05}", self.name, self.sent);
        self.sent += 1;
        if self.random.u8(..8) == 0 {
            self.hands.insert_nameless(&op).await;
            return;
        }
        let at = self.random.usize(..OWN_KEYS);
        let own = format!("own/{}-{at}-{}", self.name, self.generations[at]);
        let whole = || fields(json!({ "by": op, "n": self.sent }));
        let names = ["a", "b", "c"];
        let (set, unset) = (names[self.random.usize(..3)], names[self.random.usize(..3)]);
        let merge = || {
            let mut part = fields(json!({ unset: null }));
            part.insert(set.to_owned(), json!(op));
            Change::Merge(part)
        };
        let (writes, is_own) = match self.random.u8(..10) {
            0..3 => (vec![insert(&op, json!({ "by": op }))], false),
            3..5 => (vec![(own.clone(), Change::Replace(whole()))], true),
            5..7 => (vec![(own.clone(), merge())], true),
            7 => (vec![(own.clone(), Change::Delete)], true),
            8 => (vec![insert(&op, json!({ "by": op })), (own.clone(), merge())], true),
            _ => {
                let shared = format!("shared/{}", self.random.usize(..SHARED_KEYS));
                (vec![(shared, Change::Replace(whole()))], false)
            }
        };
        match self.hands.settle(&op, &writes).await {
            Answer::Accepted if is_own => self.hands.read(&own).await,
            Answer::Accepted => {}
            Answer::Open => self.generations[at] += 1,
            Answer::Refused(_) | Answer::NotSent => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}
