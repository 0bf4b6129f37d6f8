//! Each state in which a real server refuses: what the client is told, that nothing was taken, and that it goes on after.

use super::*;
use crate::testing::free_port;

/// Commands that put a server into a state, what its refusal says, and the way back.
struct State {
    says: &'static str,
    enter: Vec<Vec<&'static str>>,
    leave: Vec<Vec<&'static str>>,
}

fn state(says: &'static str, enter: &[&[&'static str]], leave: &[&[&'static str]]) -> State {
    let owned = |commands: &[&[&'static str]]| commands.iter().map(|words| words.to_vec()).collect();
    State { says, enter: owned(enter), leave: owned(leave) }
}

#[track_caller]
fn assert_refused(error: &JournalError, says: &str) {
    let JournalError::Unavailable(reason) = error else { panic!("{says}: {error:?}") };
    assert!(reason.contains(says) && reason.contains("127.0.0.1"), "{says}: {reason}");
    let advice = reason.rsplit_once(" (").map(|(_, advice)| advice.len());
    assert!(advice.is_some_and(|length| length > 5), "no advice: {reason}");
}

#[tokio::test]
async fn every_state_of_a_server_is_refused_by_its_name_and_passes() {
    let nobody: &'static str = free_port().to_string().leak();
    let on_replica = |set: &'static str, to: &'static str| vec!["CONFIG", "SET", set, to];
    let table = [
        state("OOM", &[&["CONFIG", "SET", "maxmemory", "1mb"]], &[&["CONFIG", "SET", "maxmemory", "0"]]),
        state("READONLY", &[&["REPLICAOF", "127.0.0.1", nobody]], &[&["REPLICAOF", "NO", "ONE"]]),
        state(
            "MASTERDOWN",
            &[&on_replica("replica-serve-stale-data", "no"), &["REPLICAOF", "127.0.0.1", nobody]],
            &[&["REPLICAOF", "NO", "ONE"], &on_replica("replica-serve-stale-data", "yes")],
        ),
        state(
            "NOREPLICAS",
            &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
            &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
        ),
    ];
    let server = Server::start(&[]);
    let journal = server.journal().await;
    for (there, State { says, enter, leave }) in (0_u64..).zip(table) {
        for words in enter {
            let _: Value = server.command(&words).await;
        }
        for n in 0..3 {
            let error = journal.append(request(&format!("{says}{n}"))).await.unwrap_err();
            assert_refused(&error, says);
        }
        for words in leave {
            let _: Value = server.command(&words).await;
        }
        assert_eq!(server.length().await, there, "{says}: nothing was taken");
        let kept: Vec<String> = server.command(&["KEYS", &format!("*op:{says}*")]).await;
        assert!(kept.is_empty(), "{says}: {kept:?}");
        // The same request, sent again.
        append(&journal, &format!("{says}0")).await;
    }
}

#[tokio::test]
async fn a_server_that_cannot_save_accepts_nothing() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    std::fs::remove_dir_all(server.dir.path()).unwrap();
    let _: Value = server.command(&["CONFIG", "SET", "save", "3600 1"]).await;
    let _: Value = server.command(&["BGSAVE"]).await;
    let deadline = Instant::now() + PATIENCE;
    while !server.command::<String>(&["INFO", "persistence"]).await.contains("rdb_last_bgsave_status:err") {
        assert!(Instant::now() < deadline, "the save does not fail");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_refused(&journal.append(request("op")).await.unwrap_err(), "MISCONF");
    let _: Value = server.command(&["CONFIG", "SET", "save", ""]).await;
    append(&journal, "op").await;
}

#[tokio::test]
async fn a_server_that_runs_a_script_is_busy() {
    let server = Server::start(&["--busy-reply-threshold", "1"]);
    let journal = server.journal().await;
    let url = server.redis.url();
    let script = tokio::spawn(async move {
        let link = RedisLink::new(&url).unwrap();
        let mut connection = link.dedicated(PATIENCE).await.unwrap();
        let _: Result<Value, _> =
            ::redis::cmd("EVAL").arg("while true do end").arg(0).query_async(&mut connection).await;
    });
    let deadline = Instant::now() + PATIENCE;
    let mut n = 0;
    let error = loop {
        // Before the script runs, it is accepted.
        match journal.append(request(&format!("op{n}"))).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "the script never runs");
    };
    assert_refused(&error, "BUSY");
    let _: Value = server.command(&["SCRIPT", "KILL"]).await;
    script.await.unwrap();
    append(&journal, &format!("op{n}")).await;
    assert_eq!(server.length().await, n + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loads_its_files_is_waited_for() {
    let mut server = Server::start(&[
        "--appendonly",
        "yes",
        "--enable-debug-command",
        "yes",
        "--key-load-delay",
        "1000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    let journal = server.journal().await;
    append(&journal, "before").await;
    let _: Value = server.command(&["DEBUG", "POPULATE", "2000", "filler", "500"]).await;
    let _: Value = server.command(&["BGREWRITEAOF"]).await;
    let deadline = Instant::now() + PATIENCE;
    let rewritten = async || server.command::<String>(&["INFO", "persistence"]).await;
    while !rewritten().await.contains("aof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0") {
        assert!(Instant::now() < deadline, "the file is not rewritten");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.redis.kill();
    // Notices it; an append that is under way would be tried until it is settled.
    journal.backlog().await.unwrap_err();
    let restart = tokio::task::spawn_blocking(move || {
        server.redis.restart();
        server
    });
    let mut seen = None;
    let deadline = Instant::now() + PATIENCE;
    // Away at first, then loading, then there.
    while let Err(error) = journal.append(request("after")).await {
        if error.to_string().contains("LOADING") {
            seen = Some(error);
        }
        assert!(Instant::now() < deadline, "it never comes back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_refused(&seen.expect("it was loading for two seconds"), "LOADING");
    assert_eq!(restart.await.unwrap().length().await, 2);
}

/// Trying again is of no use: a person has to mend it.
#[tokio::test]
async fn users_and_their_rights() {
    let server = Server::start(&[]);
    let port = server.redis.port();
    let connect = async |user: &str| {
        let link = RedisLink::new(&format!("redis://{user}127.0.0.1:{port}")).unwrap();
        RedisJournal::connect(Arc::new(link), BOUNDS, 1, Durability::Memory).await
    };
    let rights = |name: &'static str, rest: &[&'static str]| {
        [&["ACL", "SETUSER", name, "on", ">s3cret"], rest].concat()
    };
    for (name, rest) in [
        ("nowrite", &["~*", "+@all", "-xadd"][..]),
        ("nosets", &["~*", "+@all", "-set"]),
        ("nokeys", &["~other:*", "+@all"]),
        ("noscripts", &["~*", "+@all", "-@scripting"]),
    ] {
        let _: Value = server.command(&rights(name, &["~*", "+@all"])).await;
        let journal = connect(&format!("{name}:s3cret@")).await.unwrap();
        let _: Value =
            server.command(&[&["ACL", "SETUSER", name, "resetkeys", "-@all"], rest].concat()).await;
        let error = journal.append(request("op")).await.unwrap_err();
        let JournalError::Failed(reason) = &error else { panic!("{name}: {error:?}") };
        assert!(reason.contains("profiles/redis.acl") && !reason.contains("s3cret"), "{name}: {reason}");
    }
    assert_eq!(server.length().await, 0);
    // It goes on once the rights are there.
    let _: Value = server.command(&["ACL", "SETUSER", "nowrite", "+xadd"]).await;
    let journal = connect("nowrite:s3cret@").await.unwrap();
    append(&journal, "op").await;

    let error = connect("nowrite:wr0ng@").await.err().unwrap();
    let JournalError::Failed(reason) = &error else { panic!("{error:?}") };
    assert!(reason.contains("mend the URL") && !reason.contains("wr0ng"), "{reason}");
    let _: Value = server.command(&["CONFIG", "SET", "requirepass", "s3cret"]).await;
    let error = connect("").await.err().unwrap();
    let JournalError::Failed(reason) = &error else { panic!("{error:?}") };
    assert!(reason.contains("asks for a password"), "{reason}");
}

#[tokio::test]
async fn what_an_append_is_worth_is_looked_at_again() {
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let standing = Standing::demanding(Durability::Fsync).believed_for(Duration::ZERO);
    let journal = RedisJournal::standing(server.link(), BOUNDS, 1, standing).await.unwrap();
    append(&journal, "op0").await;
    assert_eq!((journal.durability(), journal.refuses()), (Durability::Fsync, None));
    for (n, (name, weak, back)) in [
        ("appendfsync", "everysec", "always"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
        ("appendonly", "no", "yes"),
    ]
    .into_iter()
    .enumerate()
    {
        let _: Value = server.command(&["CONFIG", "SET", name, weak]).await;
        let op_id = format!("weak{n}");
        let error = journal.append(request(&op_id)).await.unwrap_err();
        let worth = if name == "appendonly" { Durability::Memory } else { Durability::Os };
        assert_eq!(journal.durability(), worth, "{name}");
        let JournalError::Unavailable(reason) = &error else { panic!("{name}: {error:?}") };
        assert!(reason.contains("`fsync`") && reason.contains(worth.as_str()), "{name}: {reason}");
        assert_eq!(journal.refuses().as_ref(), Some(reason));
        journal.backlog().await.unwrap();
        let _: Value = server.command(&["CONFIG", "SET", name, back]).await;
        // The watch of the backlog finds out, too, and without an append.
        journal.backlog().await.unwrap();
        assert_eq!((journal.durability(), journal.refuses()), (Durability::Fsync, None), "{name}");
        append(&journal, &op_id).await;
    }
    assert_eq!(server.length().await, 4);
}

#[tokio::test]
async fn a_new_connection_is_looked_at_before_anything_is_appended() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let journal = RedisJournal::connect(server.link(), BOUNDS, 1, Durability::Fsync).await.unwrap();
    append(&journal, "op0").await;
    // Believed for seconds, so this alone is not seen.
    let _: Value = server.command(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    append(&journal, "op1").await;
    server.redis.kill();
    journal.backlog().await.unwrap_err();
    server.redis.restart();
    let _: Value = server.command(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    let before = server.length().await;
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        let error = journal.append(request("weak")).await.unwrap_err();
        if !error.to_string().contains("refused") {
            break error;
        }
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(error.to_string().contains("`fsync`"), "{error}");
    assert_eq!(server.length().await, before);
    assert_eq!(journal.durability(), Durability::Os);
}
