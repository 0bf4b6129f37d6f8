//! Redis that is stopped, killed, full or emptied underneath.

use super::*;

#[tokio::test]
async fn a_destroyed_group_costs_nothing() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    let appended = append_numbered(&journal, 0..6).await;
    let mut consumer = journal.consumer("w1");
    assert_eq!(drain(&mut consumer).await.len(), 6);
    consumer.ack(&appended[..2]).await.unwrap();
    assert_eq!(server.command::<i64>(&["XGROUP", "DESTROY", STREAM, GROUP]).await, 1);
    let appended_after = append_numbered(&journal, 6..8).await;
    let read = read_all(&mut consumer, 6).await;
    assert_eq!(names(&read), numbered(2..8), "in order, but for what is acknowledged");
    consumer.ack(&[&appended[2..], &appended_after[..]].concat()).await.unwrap();
    assert_eq!(server.length().await, 0);
}

#[tokio::test]
async fn a_deleted_stream_starts_anew() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append_numbered(&journal, 0..3).await;
    let mut consumer = journal.consumer("w1");
    let read = drain(&mut consumer).await;
    assert_eq!(server.command::<i64>(&["DEL", STREAM]).await, 1);
    // Acknowledging what is gone is no error: it is stored.
    consumer.ack(&positions(&read)).await.unwrap();
    append_numbered(&journal, 3..5).await;
    let read = read_all(&mut consumer, 2).await;
    assert_eq!(names(&read), numbered(3..5));
    consumer.ack(&positions(&read)).await.unwrap();
    assert_eq!(server.length().await, 0);
    // Deleted under a reader that waits.
    let waiting = tokio::spawn(async move { read_all(&mut consumer, 1).await });
    let _: i64 = server.command(&["DEL", STREAM]).await;
    append_numbered(&journal, 5..6).await;
    assert_eq!(names(&waiting.await.unwrap()), numbered(5..6));
}

#[tokio::test]
async fn entries_that_nobody_can_read_are_delivered_as_such() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append(&journal, "good").await;
    let _: String =
        server.command(&["XADD", STREAM, "*", super::super::keys::FIELD, "\x09from the future"]).await;
    let _: String = server.command(&["XADD", STREAM, "*", "colour", "blue"]).await;
    append(&journal, "after").await;
    let mut consumer = journal.consumer("w1");
    let read = drain(&mut consumer).await;
    let [good, future, foreign, after] = &read[..] else { panic!("four deliveries, not {read:?}") };
    assert_eq!((ops(good), ops(after)), (vec!["good".to_owned()], vec!["after".to_owned()]));
    let Delivery::Undecodable { reason, payload, .. } = future else { panic!("{future:?}") };
    assert!(reason.contains("version 9"), "{reason}");
    assert_eq!(&payload[..], b"\x09from the future");
    let Delivery::Undecodable { reason, payload, .. } = foreign else { panic!("{foreign:?}") };
    assert!(reason.contains("not written by scalekit"), "{reason}");
    let kept = String::from_utf8_lossy(payload);
    assert!(kept.contains("colour") && kept.contains("blue"), "what it held is kept: {kept:?}");
    consumer.ack(&positions(&read)).await.unwrap();
    assert_eq!(server.length().await, 0);
}

#[tokio::test]
async fn a_server_that_may_evict_is_refused() {
    let server = Server::start(&["--maxmemory", "100mb"]);
    for policy in ["allkeys-lru", "volatile-lru", "volatile-ttl"] {
        let _: String = server.command(&["CONFIG", "SET", "maxmemory-policy", policy]).await;
        let Err(JournalError::Failed(reason)) = server.connect(BOUNDS).await else {
            panic!("{policy} must be refused")
        };
        assert!(reason.contains(policy) && reason.contains("noeviction"), "{reason}");
    }
    let _: String = server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.journal().await;
    // Without a limit nothing is ever evicted.
    let _: String = server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    server.journal().await;
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused() {
    let server = Server::start(&["--cluster-enabled", "yes"]);
    let Err(JournalError::Failed(reason)) = server.connect(BOUNDS).await else {
        panic!("a cluster must be refused")
    };
    assert!(reason.contains("cluster_enabled:1") && reason.contains("cluster-enabled no"), "{reason}");
}

/// What a script touches of one shard could be on one node of a cluster: Redis says which slot each key is in.
#[tokio::test]
async fn all_keys_of_a_shard_are_in_one_slot_and_shards_in_several() {
    let server = Server::start(&["--cluster-enabled", "yes"]);
    let mut slots = BTreeSet::new();
    for shard in 0..8 {
        let keys = super::super::keys::ShardKeys::new(shard);
        let id = WriteId { shard, position: Position { ms: 1, seq: 2 }, place: 3 };
        let named = [keys.operation("o"), keys.command(7), keys.replayed("r"), keys.note(id)];
        let mut of_shard = BTreeSet::new();
        let fixed = [keys.stream, keys.bytes, keys.owner, keys.dead, keys.dead_reasons, keys.dead_index];
        for key in named.iter().chain(&fixed) {
            of_shard.insert(server.command::<u16>(&["CLUSTER", "KEYSLOT", key]).await);
        }
        assert_eq!(of_shard.len(), 1, "shard {shard}: {of_shard:?}");
        slots.extend(of_shard);
    }
    assert_eq!(slots.len(), 8);
}

#[tokio::test]
async fn a_server_without_memory_accepts_nothing() {
    let server = Server::start(&[]);
    let journal = server.journal().await;
    append(&journal, "before").await;
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    for n in 0..3 {
        let error = journal.append(request(&format!("full{n}"))).await.unwrap_err();
        assert!(matches!(&error, JournalError::Unavailable(why) if why.contains("OOM")), "{error}");
    }
    assert_eq!(server.length().await, 1);
    assert_eq!(server.command::<Vec<String>>(&["KEYS", "*op:full*"]).await, Vec::<String>::new());
    // What waits can still be taken away.
    let mut consumer = journal.consumer("w1");
    let read = read_all(&mut consumer, 1).await;
    assert_eq!(names(&read), ["before"]);
    consumer.ack(&positions(&read)).await.unwrap();
    let _: String = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    append(&journal, "full0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_to_a_stopped_server_never_fails_falsely() {
    let server = Server::start(&[]);
    let journal = Arc::new(server.journal().await);
    append(&journal, "warm").await;
    server.signal(Signal::SIGSTOP);
    let appends: Vec<_> = (0..20)
        .map(|n| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.append(request(&format!("op{n}"))).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for (n, append) in appends.into_iter().enumerate() {
        outcomes.push((format!("op{n}"), append.await.unwrap()));
    }
    server.signal(Signal::SIGCONT);
    // The server works off what lies in its sockets; then the stream tells the truth.
    for (op_id, outcome) in &outcomes {
        assert!(
            matches!(outcome, Err(JournalError::Unknown(_) | JournalError::Unavailable(_))),
            "nothing can be known of {op_id}: {outcome:?}"
        );
    }
    let open: Vec<_> =
        outcomes.iter().filter(|(_, outcome)| matches!(outcome, Err(JournalError::Unknown(_)))).collect();
    assert!(!open.is_empty(), "the requests were on their way");
    // A retry settles the open ones, and adds none twice.
    for (op_id, _) in &open {
        let deadline = Instant::now() + PATIENCE;
        while journal.append(request(op_id)).await.is_err() {
            assert!(Instant::now() < deadline, "{op_id} is never settled");
        }
    }
    let read = read_all(&mut journal.consumer("w1"), open.len() + 1).await;
    let found = names(&read);
    let there: BTreeSet<String> = found.iter().cloned().collect();
    assert_eq!(there.len(), found.len(), "each once");
    for (op_id, outcome) in &outcomes {
        let is_open = matches!(outcome, Err(JournalError::Unknown(_)));
        assert_eq!(there.contains(op_id), is_open, "{op_id}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_killed_server_is_unavailable_at_once_and_loses_nothing() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let journal = server.journal().await;
    assert_eq!(journal.durability(), Durability::Fsync);
    let appended = append_numbered(&journal, 0..10).await;
    let mut consumer = journal.consumer("w1");
    assert_eq!(drain(&mut consumer).await.len(), 10);
    consumer.ack(&appended[..3]).await.unwrap();
    server.redis.kill();
    // The first one finds the connection broken under it, and cannot know whether it was in time.
    let lost = journal.append(request("op10")).await.unwrap_err();
    assert!(matches!(lost, JournalError::Unavailable(_) | JournalError::Unknown(_)), "{lost:?}");
    for n in 0..20 {
        let error = journal.append(request(&format!("while-away{n}"))).await.unwrap_err();
        assert!(matches!(error, JournalError::Unavailable(_)), "append {n}: {error:?}");
    }
    assert!(matches!(journal.backlog().await, Err(JournalError::Unavailable(_))));
    assert!(consumer.read(10, usize::MAX, AT_ONCE).await.is_err());
    server.redis.restart();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = journal.append(request("op10")).await {
        assert!(Instant::now() < deadline, "{error}");
    }
    assert_eq!(names(&read_all(&mut consumer, 8).await), numbered(3..11));
    assert!(server.dir.path().join("appendonlydir").is_dir());
}
