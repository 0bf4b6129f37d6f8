//! Who may do what: the service under Redis users with least privilege, servers with TLS and passwords, and no
//! secret in any message.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Client;
use scalekit_service::authorities::Authorities;
use scalekit_service::config::{Backend, Role};
use scalekit_service::device_io::Place;
use scalekit_service::server_url::ServerUrl;
use scalekit_service::store::Store as _;
use scalekit_service::store::mongo::Mongo;
use scalekit_service::testing::{MongoServer, RedisServer, free_port};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Options, PATIENCE, Process, config_of};

const PASSWORD: &str = "hunter2-and-more";
const JOURNAL: [&str; 6] =
    ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"];

/// The users that we ship, each with the password, and one who may do all.
fn acl_file(dir: &Path) -> PathBuf {
    let shipped: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "profiles", "redis.acl"].iter().collect();
    let mut users = fs::read_to_string(shipped).unwrap().replace(" on ", &format!(" on >{PASSWORD} "));
    users += &format!("user admin on >{PASSWORD} ~* &* +@all\n");
    let file = dir.join("users.acl");
    fs::write(&file, users).unwrap();
    file
}

fn start_redis(dir: &Path, args: &[&str]) -> RedisServer {
    let acl = acl_file(dir);
    // Without it DEBUG would be refused to everybody.
    let more = ["--aclfile", acl.to_str().unwrap(), "--enable-debug-command", "yes"];
    RedisServer::start(dir, &[args, &more].concat())
}

fn url_of(server: &RedisServer, user: &str) -> String {
    server.url().replace("redis://", &format!("redis://{user}:{PASSWORD}@"))
}

async fn command(url: &str, words: &[&str]) -> Result<redis::Value, redis::RedisError> {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
}

/// Each kind of request once, to the end: stored, read back, refused for good, asked about.
async fn exercise(client: &Client, api: &str, run: &str) {
    let post = async |path: &str, key: String, body: Value| -> (u16, Value) {
        let request =
            client.post(format!("{api}{path}")).header("idempotency-key", key).body(body.to_string());
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    };
    let get = async |path: &str| -> (u16, String) {
        let response = client.get(format!("{api}{path}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let writes = json!({ "reads": [{ "collection": "things", "id": "none" }], "writes": [
        { "collection": "things", "op": "insert", "id": format!("{run}-a"), "document": { "n": 1 } },
        { "collection": "things", "op": "merge", "id": format!("{run}-b"), "document": { "m": 2 } },
        { "collection": "things", "op": "replace", "id": format!("{run}-c"), "document": { "r": 3 } },
        { "collection": "things", "op": "delete", "id": format!("{run}-d") },
    ]});
    let (status, accepted) = post("/v1/transactions", format!("{run}-1"), writes.clone()).await;
    assert_eq!(status, 202, "{accepted}");
    let (status, again) = post("/v1/transactions", format!("{run}-1"), writes).await;
    assert_eq!((status, &again["write_id"]), (202, &accepted["write_id"]));
    // An id that is there already is refused for good: a dead letter.
    let insert = json!({ "writes": [
        { "collection": "things", "op": "insert", "id": format!("{run}-a"), "document": { "n": 9 } },
    ], "reads": [] });
    let (status, dead) = post("/v1/transactions", format!("{run}-2"), insert).await;
    assert_eq!(status, 202, "{dead}");
    let state_of = async |answer: &Value| {
        let id = answer["write_id"].as_str().unwrap();
        let (status, text) = get(&format!("/v1/writes/{id}")).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["status"].as_str().unwrap().to_owned()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while state_of(&accepted).await != "stored" || state_of(&dead).await == "accepted" {
        assert!(tokio::time::Instant::now() < deadline, "it is never stored: {}", get("/v1/stats").await.1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (path, status, part) in [
        (format!("/v1/things/{run}-a"), 200, "\"n\":1"),
        (format!("/v1/things/{run}-b"), 200, "\"m\":2"),
        (format!("/v1/things/{run}-c"), 200, "\"r\":3"),
        (format!("/v1/things/{run}-d"), 404, "no document"),
        ("/v1/audit/things".to_owned(), 200, run),
        ("/v1/stats".to_owned(), 200, "\"reachable\":true"),
        ("/metrics".to_owned(), 200, "scalekit"),
        ("/readyz".to_owned(), 200, "ready"),
    ] {
        let answer = get(&path).await;
        assert!(answer.0 == status && answer.1.contains(part), "{path}: {answer:?}");
        assert!(!answer.1.contains(PASSWORD), "{path}: {}", answer.1);
    }
    let letter = format!("/v1/dead-letters/{}.0", dead["write_id"].as_str().unwrap());
    for (path, part) in [("/v1/dead-letters", "things"), (&letter, "exists already"), (&letter, "\"n\":9")] {
        let answer = get(path).await;
        assert!(answer.0 == 200 && answer.1.contains(part), "{path}: {answer:?}");
    }
    // Refused again, and given up.
    let (status, replayed) = post(&format!("{letter}/replay"), String::from("none"), json!(null)).await;
    assert_eq!(status, 202, "{replayed}");
    while state_of(&replayed).await == "accepted" {
        assert!(tokio::time::Instant::now() < deadline, "it is never refused again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state_of(&replayed).await, "dead");
    client.delete(format!("{api}{letter}")).send().await.unwrap().error_for_status().unwrap();
    let stats: Value = serde_json::from_str(&get("/v1/stats").await.1).unwrap();
    assert_eq!(stats["cache"]["errors"], 0, "{stats}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_redis_users_suffice_and_may_do_no_more() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let journal = start_redis(dirs[0].path(), &JOURNAL);
    let cache = start_redis(dirs[1].path(), &[]);
    let mongo = MongoServer::start(dirs[2].path());
    let client = Client::builder().timeout(PATIENCE).build().unwrap();
    let config = |role: Role, user: &str, has_cache: bool| {
        let backend = Backend::RedisMongo {
            redis_url: url_of(&journal, user).into(),
            cache_url: has_cache.then(|| url_of(&cache, "scalekit-cache").into()),
            mongo_url: mongo.url().into(),
            mongo_database: format!("acl{has_cache}"),
            authorities: None,
        };
        // A process that reads the device tells the others in Redis.
        let here = std::env::temp_dir();
        let device = Place::find(&here).is_ok().then_some(here);
        let options =
            Options { database_iops_per_s: Some(1_000_000), database_device: device, ..Options::default() };
        config_of(role, backend, &options, "worker-0")
    };
    // With a cache of its own, and with the cache on the journal's server.
    for (run, has_cache) in [("apart", true), ("one", false)] {
        let worker = Process::start(config(Role::Worker, "scalekit-worker", has_cache));
        let api = Process::start(config(Role::Api, "scalekit-api", has_cache));
        exercise(&client, &api.url(""), run).await;
        api.stop().await;
        worker.stop().await;
        let refused = async |user: &str| -> Vec<String> {
            let log = command(&url_of(&journal, "admin"), &["ACL", "LOG"]).await.unwrap();
            vec![format!("{log:?}")].into_iter().filter(|log| log.contains(user)).collect()
        };
        for user in ["scalekit-api", "scalekit-worker"] {
            assert_eq!(refused(user).await, Vec::<String>::new(), "it asked for what it may not");
        }
    }
    let admin = url_of(&cache, "admin");
    let log = command(&admin, &["ACL", "LOG"]).await.unwrap();
    assert!(!format!("{log:?}").contains("scalekit-cache"), "it asked for what it may not: {log:?}");
    command(&url_of(&journal, "admin"), &["SET", "foreign", "1"]).await.unwrap();
    for (server, user) in
        [(&journal, "scalekit-api"), (&journal, "scalekit-worker"), (&cache, "scalekit-cache")]
    {
        let url = url_of(server, user);
        for words in [
            &["FLUSHALL"][..],
            &["FLUSHDB"],
            &["SWAPDB", "0", "1"],
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "REWRITE"],
            &["KEYS", "*"],
            &["SCAN", "0"],
            &["RESTORE", "scalekit:c:x", "0", "x"],
            &["DUMP", "scalekit:c:x"],
            &["MIGRATE", "127.0.0.1", "1", "scalekit:c:x", "0", "1"],
            &["DEBUG", "SLEEP", "0"],
            &["SHUTDOWN", "NOSAVE"],
            &["REPLICAOF", "NO", "ONE"],
            &["SAVE"],
            &["MONITOR"],
            &["MODULE", "LIST"],
            &["FUNCTION", "FLUSH"],
            &["SCRIPT", "FLUSH"],
            &["ACL", "LIST"],
            &["CLIENT", "KILL", "TYPE", "normal"],
            &["GET", "foreign"],
            &["SET", "foreign", "2"],
            &["DEL", "foreign"],
            &["EVAL", "return redis.call('GET', 'foreign')", "0"],
            &["EVAL", "return redis.call('FLUSHALL')", "0"],
        ] {
            let error = command(&url, words).await.expect_err(&format!("{user} may {words:?}")).to_string();
            let denied = ["NOPERM", "no permissions", "can't access", "can't run", "permission"];
            assert!(denied.iter().any(|word| error.contains(word)), "{user} {words:?}: {error}");
        }
    }
    let from_the_journal = ["XDEL", "scalekit:{0}:journal", "1-1"];
    let refused = command(&url_of(&journal, "scalekit-api"), &from_the_journal).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("permission")), "only dead letters");
    let (config_get, journal_key) = (["CONFIG", "GET", "appendfsync"], ["GET", "scalekit:{0}:owner"]);
    for words in [&config_get[..], &journal_key] {
        assert!(command(&url_of(&cache, "scalekit-cache"), words).await.is_err(), "{words:?}");
    }
}

/// An authority and a certificate of it for 127.0.0.1, as files: authority, certificate, key.
fn certificates(dir: &Path) -> [PathBuf; 3] {
    let (authority_key, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let files = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name));
    for (file, text) in files.iter().zip([authority.pem(), certificate.pem(), key.serialize_pem()]) {
        fs::write(file, text).unwrap();
    }
    files
}

fn start_redis_with_tls(dir: &Path, files: &[PathBuf; 3]) -> (RedisServer, u16) {
    let port = free_port();
    let text = port.to_string();
    let [ca, cert, key] = files.each_ref().map(|file| file.to_str().unwrap());
    let tls = ["--tls-port", &text, "--tls-ca-cert-file", ca, "--tls-cert-file", cert, "--tls-key-file", key];
    let server = start_redis(dir, &[&JOURNAL[..], &tls, &["--tls-auth-clients", "no"]].concat());
    (server, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tls_with_a_password_carries_the_whole_service() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let files = certificates(dirs[0].path());
    let (_redis, port) = start_redis_with_tls(dirs[1].path(), &files);
    let mongo = MongoServer::start(dirs[2].path());
    let config = |authorities: Option<&Path>, password: &str| {
        let backend = Backend::RedisMongo {
            redis_url: format!("rediss://admin:{password}@127.0.0.1:{port}").into(),
            cache_url: None,
            mongo_url: mongo.url().into(),
            mongo_database: "tls".to_owned(),
            authorities: authorities.map(|file| Authorities::read(file).unwrap()),
        };
        config_of(Role::All, backend, &Options::default(), "worker-0")
    };
    let service = Process::start(config(Some(&files[0]), PASSWORD));
    let client = Client::builder().timeout(PATIENCE).build().unwrap();
    exercise(&client, &service.url(""), "tls").await;
    service.stop().await;
    let stranger = tempfile::tempdir().unwrap();
    let other = certificates(stranger.path());
    for (authorities, password, part) in [
        (None, PASSWORD, "certificate"),
        (Some(&other[0]), PASSWORD, "certificate"),
        (Some(&files[0]), "wrong-hunter3", "authentication failed"),
    ] {
        let error = Process::try_start(config(authorities.map(PathBuf::as_path), password)).err().unwrap();
        let lower = error.to_lowercase();
        assert!(lower.contains(&part.to_lowercase()) && error.contains(&port.to_string()), "{error}");
        assert!(!error.contains(PASSWORD) && !error.contains("hunter3"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongodb_over_tls_with_a_password_stores_and_a_stranger_is_told_why_not() {
    let (dir, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(plain) = MongoServer::start_secantus(dir.path(), &["--sync-on-commit"]) else {
        println!("SKIPPED: no SecantusDB in target/venv");
        return;
    };
    let admin = mongodb::Client::with_uri_str(plain.url()).await.unwrap().database("admin");
    let user = bson::doc! { "createUser": "service", "pwd": PASSWORD, "roles": ["root"] };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = admin.run_command(user.clone()).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop((admin, plain));
    let files = certificates(keys.path());
    let [_, cert, key] = files.each_ref().map(|file| file.to_str().unwrap());
    let args = ["--auth", "--tls-cert-file", cert, "--tls-key-file", key];
    let secure = MongoServer::start_secantus(dir.path(), &args).unwrap();
    let authorities = Authorities::read(&files[0]).unwrap();
    let url = |password: &str| -> ServerUrl {
        format!("mongodb://service:{password}@127.0.0.1:{}/?authSource=admin&tls=true", secure.port()).into()
    };
    let mongo = Mongo::open(&url(PASSWORD), "tls", Some(&authorities)).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = mongo.ping().await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(mongo.stamps("things", "", None, 10).await.unwrap().len(), 0);
    for (password, authorities) in [("wrong-hunter3", Some(&authorities)), (PASSWORD, None)] {
        let mongo = Mongo::open(&url(password), "tls", authorities).await.unwrap();
        let error = mongo.stamps("things", "", None, 10).await.unwrap_err().to_string();
        assert!(!error.contains(PASSWORD) && !error.contains("hunter3"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_drips_in_is_cut_off_and_its_place_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::Embedded { data_dir: dir.path().to_owned() };
    let options = Options { max_connections: 1, ..Options::default() };
    let mut config = config_of(Role::All, backend, &options, "worker-0");
    config.requests.request_timeout = Duration::from_millis(300);
    let service = Process::start(config);
    let stream = tokio::net::TcpStream::connect(service.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let dripping = tokio::spawn(async move {
        writing
            .write_all(b"POST /v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
            .await
            .unwrap();
        // Half an hour's worth.
        for _ in 0..100_000 {
            if writing.write_all(b" ").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Vec::new();
    // What is still sent may be answered by a reset; the answer is there by then.
    let _ = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut answer)).await.expect("it stays open");
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    tokio::time::timeout(PATIENCE, dripping).await.expect("it may send on").unwrap();
    let client = Client::builder().timeout(PATIENCE).build().unwrap();
    assert_eq!(client.get(service.url("/healthz")).send().await.unwrap().status(), 200);
    service.stop().await;
}
