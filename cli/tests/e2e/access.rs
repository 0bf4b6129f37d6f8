//! Tokens, certificates and passwords, as who runs the service meets them: what is asked for, what is refused, and
//! that no secret is left anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use scalekit_service::testing::RedisServer;
use serde_json::Value;

use crate::run::{Servers, expect_audited};
use crate::sandbox::{Sandbox, free_port, read_json, wait_for};

const PASSWORD: &str = "hunter2-and-more";

/// A new token and the line for it.
fn token(sandbox: &Sandbox, name: &str) -> (String, String) {
    let output = sandbox.scalekit(&["token", "new", name, "--json"]).expect(0);
    let made: Value = serde_json::from_str(&output.stdout).unwrap();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    (text("token"), text("line"))
}

/// All files below a directory that hold the text, but for those named.
fn holding(dir: &Path, text: &str, but: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, text, but));
        } else if !but.iter().any(|name| path.ends_with(name))
            && fs::read(&path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

/// A certificate for 127.0.0.1 that is its own authority.
fn certificate(sandbox: &Sandbox) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(sandbox.path("cert.pem"), made.cert.pem()).unwrap();
    fs::write(sandbox.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

#[test]
fn a_new_token_is_shown_once_with_a_line_that_does_not_give_it_away() {
    let sandbox = Sandbox::new();
    let output = sandbox
        .scalekit(&["token", "new", "ci", "--rate", "500/s"])
        .expect(0)
        .prints(&["ci  sha256:", "500/s"]);
    assert!(output.stdout.lines().any(|line| line.starts_with("scalekit_")), "{}", output.stdout);
    let ((one, line), (other, _)) = (token(&sandbox, "a"), token(&sandbox, "a"));
    assert!(one != other && !line.contains(&one["scalekit_".len()..]), "{line}");
    sandbox.scalekit(&["token", "new", "no name"]).expect(104).says(&["a name of 1 to 64"]);
    sandbox.scalekit(&["token", "new", "n", "--rate", "fast"]).expect(104).says(&["500/s", "fast"]);
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_starts() {
    let sandbox = Sandbox::new();
    certificate(&sandbox);
    let (token, line) = token(&sandbox, "ci");
    fs::write(sandbox.path("tokens"), format!("# who\n{line}\nops {token}\n")).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(sandbox.path("other.pem"), other.signing_key.serialize_pem()).unwrap();
    for (flags, words) in [
        (&["--token-file", "tokens"][..], ["tokens:3:", "scalekit token new ops"]),
        (&["--token-file", "none"], ["cannot read", "none"]),
        (&["--tls-cert", "cert.pem"], ["--tls-key", "without its key"]),
        (&["--tls-key", "key.pem"], ["--tls-cert", "without its certificate"]),
        (&["--tls-cert", "cert.pem", "--tls-key", "other.pem"], ["is not the one", "other.pem"]),
        (&["--tls-cert", "none.pem", "--tls-key", "key.pem"], ["cannot read", "none.pem"]),
    ] {
        for command in [&["serve", "all", "--listen", "127.0.0.1:0"][..], &["run"], &["deploy"]] {
            let output = sandbox.scalekit(&[command, flags].concat()).expect(104).says(&words);
            assert!(!output.stderr.contains(&token), "{}", output.stderr);
        }
    }
    sandbox.expect_clean();
}

#[test]
fn who_listens_for_strangers_without_tokens_is_warned() {
    let sandbox = Sandbox::new();
    let command = sandbox.command(&["serve", "all", "--listen", "0.0.0.0:0", "--ready-file", "ready"]);
    let mut service = sandbox.start(command);
    service.wait_to_say("whoever reaches this address may read and write every document");
    service.signal(nix::sys::signal::Signal::SIGTERM);
    wait_for("its end", || service.has_ended().then_some(()));
}

#[test]
fn a_guarded_service_is_deployed_loaded_and_audited_over_https_by_who_has_a_token() {
    let sandbox = Sandbox::new();
    certificate(&sandbox);
    let (secret, line) = token(&sandbox, "ci");
    fs::write(sandbox.path("tokens"), &line).unwrap();
    fs::write(sandbox.path("token"), &secret).unwrap();
    let profile = sandbox.profile(
        "guarded",
        "deploy: {tokens_file: tokens, tls: {cert: cert.pem, key: key.pem}}\nload: {tls: {ca: cert.pem}, http: '1.1'}\n",
    );
    sandbox.scalekit(&["run", "-p", &profile]).expect(104).says(&["--service-token-file"]);
    let with_token = ["--service-token-file", "token"];
    sandbox.scalekit(&[&["run", "-p", &profile, "-o", "one"], &with_token[..]].concat()).expect(0);
    let report = read_json(
        &fs::read_dir(sandbox.path("one")).unwrap().next().unwrap().unwrap().path().join("report.json"),
    );
    expect_audited(&report);

    sandbox.scalekit(&["deploy", "-p", &profile]).expect(0).prints(&["https://127.0.0.1:"]);
    sandbox
        .scalekit(&["deploy", "status", "-p", &profile])
        .expect(1)
        .prints(&["401", "--service-token-file"]);
    let status = [&["deploy", "status", "-p", &profile], &with_token[..]].concat();
    sandbox.scalekit(&status).expect(0).prints(&["requests"]);
    sandbox.scalekit(&["bench", "-p", &profile]).expect(1).says(&["401", "--service-token-file"]);
    sandbox.scalekit(&[&["bench", "-p", &profile, "-o", "two"], &with_token[..]].concat()).expect(0);

    // Rotation: the new one holds without a restart, and the old one does not any more.
    let (new, line) = token(&sandbox, "ci");
    fs::write(sandbox.path("tokens"), &line).unwrap();
    wait_for("the end of the old token", || (sandbox.scalekit(&status).status == Some(1)).then_some(()));
    fs::write(sandbox.path("token"), &new).unwrap();
    sandbox.scalekit(&status).expect(0);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    for text in [&secret, &new] {
        // The first command printed them.
        let found = holding(&sandbox.path(""), text, &["token", "0.stdout"]);
        let found: Vec<_> =
            found.into_iter().filter(|path| path.extension().is_none_or(|end| end != "stdout")).collect();
        assert_eq!(found, Vec::<PathBuf>::new());
    }
}

#[test]
fn a_password_in_a_file_stays_there() {
    let (sandbox, servers) = (Sandbox::new(), Servers::start());
    let dir = tempfile::tempdir().unwrap();
    let redis = RedisServer::start(
        dir.path(),
        &["--appendonly", "yes", "--appendfsync", "always", "--requirepass", PASSWORD],
    );
    let url = |password: &str, port: u16| format!("redis://:{password}@127.0.0.1:{port}\n");
    fs::write(sandbox.path("mongo-url"), servers.mongo.url()).unwrap();
    let files = ["--redis-url-file", "redis-url", "--mongo-url-file", "mongo-url"];
    let serve = [&["serve", "all", "--backend", "redis-mongo", "--listen", "127.0.0.1:0", "-vv"], &files[..]]
        .concat();
    for (text, status, part) in [
        (url("hunter3-wrong", redis.port()), 1, "authentication failed"),
        (url(PASSWORD, free_port()), 1, "127.0.0.1"),
        (format!("redis://:{PASSWORD}@"), 104, "redis-url"),
        (format!("http://:{PASSWORD}@127.0.0.1"), 104, "redis-url"),
        (format!("{PASSWORD}\n"), 104, "redis-url"),
        (format!("redis://:{PASSWORD}@127.0.0.1:port"), 104, "redis-url"),
        (String::new(), 104, "redis-url"),
    ] {
        fs::write(sandbox.path("redis-url"), &text).unwrap();
        let output = sandbox.scalekit(&serve);
        assert!(!output.stderr.contains("hunter"), "{text}: {}", output.stderr);
        output.expect(status).says(&[part]);
    }
    let given = ["--redis-url", "redis://127.0.0.1:1"];
    sandbox.scalekit(&[&serve[..], &given].concat()).expect(104).says(&["redis_url", "redis_url_file"]);

    fs::write(sandbox.path("redis-url"), url(PASSWORD, redis.port())).unwrap();
    let profile = sandbox.profile(
        "secret",
        "deploy: {backend: redis-mongo, redis_url_file: redis-url, mongo_url_file: mongo-url}\n",
    );
    sandbox.scalekit(&["run", "-p", &profile, "--keep", "-vv"]).expect(0);
    let arguments = holding_arguments(PASSWORD);
    assert_eq!(arguments, Vec::<String>::new());
    sandbox.scalekit(&["doctor", "-p", &profile, "--seconds", "1", "--json"]);
    sandbox.scalekit(&["deploy", "down", "-p", &profile]).expect(0);
    assert_eq!(holding(&sandbox.path(""), PASSWORD, &["redis-url"]), Vec::<PathBuf>::new());
}

/// The command lines of this program's processes that hold the text.
fn holding_arguments(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let lines = processes.filter_map(|path| fs::read_to_string(path.join("cmdline")).ok());
    lines.filter(|line| line.contains("scalekit\0serve") && line.contains(text)).collect()
}
