//! How many shards there are, and who relies on it.

use super::*;

async fn connect(server: &Server, shards: u16) -> Result<RedisJournal, String> {
    RedisJournal::connect(server.link(), BOUNDS, shards, Durability::Memory)
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn another_number_of_shards_is_refused_while_entries_wait_or_processes_run() {
    let server = Server::start(&[]);
    let journal = connect(&server, 1).await.unwrap();
    append_numbered(&journal, 0..3).await;
    let refused = connect(&server, 4).await.err().unwrap();
    for part in ["deploy.shards is 4", "dealt out to 1", "3 entries wait", "`shards: 1`"] {
        assert!(refused.contains(part), "{part:?} in {refused}");
    }
    connect(&server, 1).await.unwrap();
    let mut consumer = journal.consumer("w1");
    let read = drain(&mut consumer).await;
    consumer.ack(&positions(&read)).await.unwrap();
    let mut api = journal.presence();
    api.beat().await.unwrap();
    let refused = connect(&server, 4).await.err().unwrap();
    assert!(refused.contains("are there (1)") && refused.contains("stop them first"), "{refused}");
    api.leave().await;
    connect(&server, 4).await.unwrap();
    // One that stood still meanwhile.
    let late = api.beat().await.unwrap_err();
    assert!(matches!(&late, JournalError::Failed(why) if why.contains("dealt out to 4")), "{late}");
    let back = connect(&server, 2).await;
    assert!(back.is_ok(), "nothing waits, nobody is there");
}

#[tokio::test]
async fn a_journal_of_before_there_were_shards_is_one() {
    let server = Server::start(&[]);
    let _: String = server.command(&["XADD", STREAM, "*", "e", "x"]).await;
    assert!(connect(&server, 2).await.is_err_and(|error| error.contains("dealt out to 1")));
    connect(&server, 1).await.unwrap();
    assert_eq!(server.command::<String>(&["GET", keys::COUNT]).await, "1");
}

#[tokio::test]
async fn positions_go_on_growing_when_documents_move_to_other_journals() {
    let server = Server::start(&[]);
    connect(&server, 1).await.unwrap();
    // As by a clock that went back an hour later.
    let ahead = format!("{}-7", now_ms() + 3_600_000);
    let _: String = server.command(&["XADD", STREAM, "MAXLEN", "0", &ahead, "e", "x"]).await;
    connect(&server, 3).await.unwrap();
    for shard in 0..3 {
        let stream = format!("scalekit:{{{shard}}}:journal");
        assert_eq!(server.command::<u64>(&["XLEN", &stream]).await, 0);
        let next: String = server.command(&["XADD", &stream, "*", "e", "x"]).await;
        assert!(parse_id(&next) > parse_id(&ahead), "{next} after {ahead}");
    }
}

#[tokio::test]
async fn processes_are_ordered_by_when_they_came_and_expire() {
    let server = Server::start(&[]);
    connect(&server, 1).await.unwrap();
    let worker =
        |name: &str| Presence::of_worker(server.link(), 1, name).with_ttl(Duration::from_millis(400));
    let (mut first, mut second) = (worker("a"), worker("b"));
    let place = |rank, live| super::super::presence::Place { rank, live };
    assert_eq!(first.place().await.unwrap(), place(0, 1));
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(second.place().await.unwrap(), place(1, 2));
    assert_eq!(first.place().await.unwrap(), place(0, 2));
    // The first one after a restart takes its own place, and there are not three.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut reborn = worker("a");
    assert_eq!(reborn.place().await.unwrap(), place(1, 2));
    let deadline = Instant::now() + PATIENCE;
    while reborn.place().await.unwrap() != place(0, 1) {
        assert!(Instant::now() < deadline, "the second one never expires");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    reborn.leave().await;
    assert_eq!(server.command::<u64>(&["ZCARD", keys::WORKERS]).await, 0);
}
