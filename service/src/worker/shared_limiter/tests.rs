//! The shared governor on a real Redis, asked by several processes' worth of limiters with connections of their own.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::metrics::SECONDS;
use crate::testing::RedisServer;

const SECOND: Duration = Duration::from_secs(1);

struct Server {
    redis: RedisServer,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Without flushes, whose time depends on what else runs on this machine.
        let args = ["--appendonly", "yes", "--appendfsync", "no"];
        Self { redis: RedisServer::start(dir.path(), &args), _dir: dir }
    }

    fn limiter(&self, per_second: u32) -> Arc<SharedLimiter> {
        Arc::new(self.own(per_second))
    }

    fn own(&self, per_second: u32) -> SharedLimiter {
        let link = Arc::new(RedisLink::new(&self.redis.url()).unwrap());
        SharedLimiter::new(link, "test", per_second, Histogram::new(&SECONDS))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.redis.pid() as i32), signal).unwrap();
    }

    async fn command<T: ::redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let link = RedisLink::new(&self.redis.url()).unwrap();
        let mut connection = link.dedicated(SECOND * 5).await.unwrap();
        ::redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.unwrap()
    }

    async fn counted(&self, limiter: &SharedLimiter) -> u32 {
        self.command(&["HGET", &limiter.key, "counted"]).await
    }
}

/// Greedy callers until `end`; when each operation started.
async fn starts(limiters: &[Arc<SharedLimiter>], callers: usize, end: Instant) -> Vec<Instant> {
    let tasks: Vec<_> = limiters
        .iter()
        .flat_map(|limiter| std::iter::repeat_n(limiter, callers))
        .map(|limiter| {
            let limiter = Arc::clone(limiter);
            tokio::spawn(async move {
                let mut starts = Vec::new();
                while Instant::now() < end {
                    limiter.acquire().await;
                    starts.push(Instant::now());
                }
                starts
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort_unstable();
    all
}

/// 95% of the limit, where Redis answered as fast as the least margin takes it to; a slower one costs what its margin
/// says.
async fn enough(limiters: &[Arc<SharedLimiter>], limit: u32, time: Duration) -> f64 {
    let mut margin = LEAST_MARGIN;
    for limiter in limiters {
        margin = margin.max(limiter.turn.lock().await.widest);
    }
    0.95 * f64::from(limit) * time.as_secs_f64() / (1.0 + (margin - LEAST_MARGIN).as_secs_f64())
}

fn most_in_a_second(starts: &[Instant]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, start) in starts.iter().enumerate() {
        while *start - starts[first] >= SECOND {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_together_keep_the_limit_and_use_it() {
    const LIMIT: u32 = 500;
    const TIME: Duration = Duration::from_secs(4);
    let server = Server::start();
    let limiters: Vec<_> = (0..3).map(|_| server.limiter(LIMIT)).collect();
    let begin = Instant::now();
    let starts = starts(&limiters, 3, begin + TIME).await;
    let most = most_in_a_second(&starts);
    assert!(most <= LIMIT as usize, "{most} started within a second");
    let used = starts.iter().filter(|start| **start < begin + TIME).count();
    let enough = enough(&limiters, LIMIT, TIME).await;
    assert!(used as f64 >= enough, "only {used} started, expected {enough}");
    let peak = limiters.iter().map(|limiter| limiter.peak()).max();
    assert!(peak.is_some_and(|peak| peak as usize >= most && peak <= LIMIT), "{peak:?} of {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_takes_nothing_from_a_busy_one() {
    const LIMIT: u32 = 200;
    const TIME: Duration = Duration::from_secs(3);
    let server = Server::start();
    let (idle, busy) = (server.limiter(LIMIT), server.limiter(LIMIT));
    idle.acquire().await;
    let begin = Instant::now();
    let busy = [busy];
    let starts = starts(&busy, 3, begin + TIME).await;
    let most = most_in_a_second(&starts);
    assert!(most <= LIMIT as usize, "{most}");
    let used = starts.iter().filter(|start| **start < begin + TIME).count();
    let enough = enough(&busy, LIMIT, TIME).await;
    assert!(used as f64 >= enough, "only {used} started, expected {enough}");
}

#[tokio::test]
async fn one_operation_is_one_call_and_many_that_wait_share_calls() {
    async fn calls(server: &Server) -> u64 {
        let info: String = server.command(&["INFO", "commandstats"]).await;
        let evaluated = info.split("cmdstat_evalsha:calls=").nth(1).unwrap_or("0");
        evaluated.split(',').next().and_then(|calls| calls.parse().ok()).unwrap_or(0)
    }
    let server = Server::start();
    let limiter = server.limiter(100_000);
    limiter.acquire().await;
    let before = calls(&server).await;
    for _ in 0..10 {
        // The bucket is filled, so nobody has to wait.
        tokio::time::sleep(Duration::from_millis(2)).await;
        limiter.acquire().await;
    }
    let asked = calls(&server).await - before;
    assert!(
        (10..=12).contains(&asked),
        "{asked} calls for 10 operations; one that came late is asked for again"
    );
    let before = calls(&server).await;
    futures_util::future::join_all((0..500).map(|_| limiter.acquire())).await;
    let asked = calls(&server).await - before;
    assert!(asked <= 20, "{asked} calls for 500 operations");
}

#[tokio::test]
async fn a_grant_that_comes_late_is_given_up_and_counts() {
    let server = Server::start();
    let limiter = server.limiter(1000);
    limiter.acquire().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.signal(Signal::SIGSTOP);
    let asking = tokio::spawn({
        let limiter = Arc::clone(&limiter);
        async move { limiter.acquire().await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.signal(Signal::SIGCONT);
    asking.await.unwrap();
    assert_eq!(server.counted(&limiter).await, 3, "the first, the one given up, and the one in its place");
    assert!(limiter.turn.lock().await.margin >= Duration::from_millis(500), "it has learnt");
}

#[tokio::test]
async fn without_redis_clients_are_told_and_the_worker_waits() {
    let mut server = Server::start();
    let limiter = server.limiter(1000);
    limiter.acquire().await;
    server.redis.kill();
    let begin = Instant::now();
    let refused = limiter.try_acquire().await.unwrap_err();
    assert!(refused.contains("cannot be counted") && refused.contains("127.0.0.1"), "{refused}");
    assert!(begin.elapsed() < SECOND * 3, "{:?}", begin.elapsed());
    let waiting = tokio::spawn({
        let limiter = Arc::clone(&limiter);
        async move { limiter.acquire().await }
    });
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!waiting.is_finished(), "nobody counts, so nothing starts");
    server.redis.restart();
    tokio::time::timeout(SECOND * 10, waiting).await.expect("it goes on when Redis is back").unwrap();
}

#[tokio::test]
async fn a_clock_that_went_back_costs_a_second_and_no_operation_too_many() {
    let server = Server::start();
    let limiter = server.limiter(5);
    limiter.acquire().await;
    // All five count, by a clock that was an hour ahead.
    let ahead = (crate::journal::now_ms() + 3_600_000) * 1000;
    for (field, value) in [("refilled", ahead), ("oldest", ahead / 2000), ("counted", 5)] {
        let _: i64 = server.command(&["HSET", &limiter.key, field, &value.to_string()]).await;
    }
    let begin = Instant::now();
    limiter.acquire().await;
    let took = begin.elapsed();
    assert!(took >= SECOND && took < SECOND * 3, "{took:?}");
}

const MEASURED: fn(u32) -> Option<DeviceLimit> =
    |per_second| Some(DeviceLimit { per_second, is_measured: true });
const GUESSED: fn(u32) -> Option<DeviceLimit> =
    |per_second| Some(DeviceLimit { per_second, is_measured: false });

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_finds_of_the_device_limits_all_and_counts_all() {
    const LIMIT: u32 = 100;
    const TIME: Duration = Duration::from_secs(3);
    let server = Server::start();
    let reader = Arc::new(server.own(1000).while_unread(10));
    let follower = Arc::new(server.own(1000).while_unread(10));
    let ignorant = server.limiter(1000);
    let before = reader.steer(MEASURED(LIMIT)).await.unwrap();
    assert_eq!((before, reader.limit(), reader.limited_by()), (0, LIMIT, LimitedBy::Device));
    let limiters = [reader, follower, ignorant];
    let begin = Instant::now();
    let starts = starts(&limiters, 2, begin + TIME).await;
    let most = most_in_a_second(&starts);
    assert!(most <= LIMIT as usize, "{most} started within a second");
    let used = starts.iter().filter(|start| **start < begin + TIME).count();
    let enough = enough(&limiters, LIMIT, TIME).await;
    assert!(used as f64 >= enough, "only {used} started, expected {enough}");
    for limiter in &limiters {
        let counted = limiter.steer(None).await.unwrap();
        assert!(counted >= starts.len() as u64, "{counted} of {}", starts.len());
        assert_eq!((limiter.limit(), limiter.limited_by()), (LIMIT, LimitedBy::Device));
    }
    limiters[0].steer(MEASURED(1000)).await.unwrap();
    limiters[1].acquire().await;
    assert_eq!((limiters[1].limit(), limiters[1].limited_by()), (1000, LimitedBy::Operations));
}

#[tokio::test]
async fn who_reads_the_device_is_believed_before_who_did_and_the_lowest_before_others() {
    let server = Server::start();
    let [one, other] = [40, 50].map(|unread| server.own(100).while_unread(unread));
    let both = async |one_finds, other_finds| {
        one.steer(one_finds).await.unwrap();
        other.steer(other_finds).await.unwrap();
        one.steer(None).await.unwrap();
        assert_eq!((one.limit(), one.limited_by()), (other.limit(), other.limited_by()));
        (one.limit(), one.limited_by())
    };
    assert_eq!(both(MEASURED(30), MEASURED(20)).await, (20, LimitedBy::Device));
    assert_eq!(both(MEASURED(30), MEASURED(60)).await, (30, LimitedBy::Device));
    assert_eq!(both(GUESSED(15), MEASURED(60)).await, (60, LimitedBy::Device), "the other one sees more");
    assert_eq!(both(GUESSED(15), GUESSED(30)).await, (15, LimitedBy::Unread), "nobody sees anything");
    assert_eq!(both(MEASURED(80), GUESSED(30)).await, (80, LimitedBy::Device));
}

#[tokio::test]
async fn a_limit_that_nobody_stands_for_any_more_ends() {
    let server = Server::start();
    let follower = server.own(100).while_unread(12);
    let ignorant = server.limiter(100);
    assert_eq!(
        (follower.limit(), follower.limited_by()),
        (12, LimitedBy::Unread),
        "before anything is heard"
    );
    let (dead, alive) = (server.limiter(100), server.limiter(100));
    dead.steer(MEASURED(5)).await.unwrap();
    alive.steer(MEASURED(50)).await.unwrap();
    let died = Instant::now();
    follower.steer(None).await.unwrap();
    assert_eq!(follower.limit(), 5);
    while follower.limit() == 5 {
        assert!(died.elapsed() < share::GOOD_FOR * 2, "it never ends");
        tokio::time::sleep(Duration::from_millis(100)).await;
        alive.steer(MEASURED(50)).await.unwrap();
        follower.steer(None).await.unwrap();
    }
    assert!(died.elapsed() >= share::GOOD_FOR - SECOND, "{:?}", died.elapsed());
    assert_eq!(
        (follower.limit(), follower.limited_by()),
        (50, LimitedBy::Device),
        "the other is still there"
    );
    let died = Instant::now();
    while follower.limit() == 50 {
        assert!(died.elapsed() < share::GOOD_FOR * 2, "it never ends");
        tokio::time::sleep(Duration::from_millis(100)).await;
        follower.acquire().await;
    }
    assert_eq!((follower.limit(), follower.limited_by()), (12, LimitedBy::Unread));
    ignorant.acquire().await;
    assert_eq!(
        (ignorant.limit(), ignorant.limited_by()),
        (100, LimitedBy::Operations),
        "it knows of no device"
    );
    let kept: i64 = server.command(&["EXISTS", &follower.device_key]).await;
    let left: i64 = server.command(&["PTTL", &follower.device_key]).await;
    assert!(kept == 0 || left > 0, "the key itself ends, too: {left}");
}

#[tokio::test]
async fn a_limit_that_stays_is_written_once_a_second_and_asking_writes_nothing() {
    async fn changes(server: &Server) -> u64 {
        let info: String = server.command(&["INFO", "persistence"]).await;
        let line = info.split("rdb_changes_since_last_save:").nth(1).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
    let server = Server::start();
    let (reader, follower) = (server.limiter(100), server.own(100).while_unread(5));
    reader.steer(MEASURED(30)).await.unwrap();
    let before = changes(&server).await;
    for _ in 0..4 {
        reader.steer(MEASURED(30)).await.unwrap();
        follower.steer(None).await.unwrap();
    }
    assert_eq!(changes(&server).await, before);
    reader.steer(MEASURED(31)).await.unwrap();
    let changed = changes(&server).await;
    assert!(changed > before);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    reader.steer(MEASURED(31)).await.unwrap();
    assert!(changes(&server).await > changed, "it is renewed");
    // As after a clock that went back by an hour.
    let late = format!("31 {} 1", (crate::journal::now_ms() + 3_600_000) * 1000);
    let _: i64 = server.command(&["HSET", &reader.device_key, &reader.name, &late]).await;
    follower.acquire().await;
    assert_eq!(follower.limit(), 5, "nobody knows how old it is");
    reader.steer(MEASURED(31)).await.unwrap();
    follower.steer(None).await.unwrap();
    assert_eq!(follower.limit(), 31, "the reader has said it again");
}

#[tokio::test]
async fn without_redis_nobody_is_told() {
    let mut server = Server::start();
    let reader = server.limiter(100);
    server.redis.kill();
    let error = reader.steer(MEASURED(30)).await.unwrap_err();
    assert!(error.contains("127.0.0.1"), "{error}");
    assert_eq!(reader.limit(), 100, "and nothing starts, as before");
}
