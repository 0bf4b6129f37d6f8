//! One governor for all processes that use one database. It lives in the journal's Redis: a token bucket and the count
//! of the last second, as in [`super::governor`], by the clock of that Redis.
//!
//! An operation starts after its grant, by the way of the answer. So a grant is good for a margin from the moment at
//! which it was asked for, is given up when that is over, and counts until a second after it: whatever the network does,
//! no more than the limit start in any second, as seen from the outside. The margin costs that part of the rate.
//!
//! Processes that can read the database's device put what they find there, too; see [`share`].

mod share;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::{RedisError, Script};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::governor::{DeviceLimit, Limit, LimitedBy, by};
use crate::metrics::Histogram;
use crate::rarely::Rarely;
use crate::redis_link::RedisLink;
use crate::store::Throttle;

/// How long a grant is good for, if Redis answers in half of it. With the slices below it costs 2% of the rate.
const LEAST_MARGIN: Duration = Duration::from_millis(20);
/// A Redis that is slower cannot govern.
const MOST_MARGIN: Duration = Duration::from_millis(800);
/// While Redis is away, ask again after this.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
const MOST_JITTER: Duration = Duration::from_millis(5);
/// Waiting callers of one process take at most this part of a second's operations at once, so that others get theirs.
const GROUPS_PER_SECOND: u32 = 100;

/// Asks for so many operations; answers how many may start, else after how many microseconds to ask again, how many
/// count now, and the limit for the device's sake that holds, with 0 if there is none, 1 if the device is read, and 2 if
/// not. What counts is kept by slices of 2 ms, each by when its last operation may start, so that a call costs the
/// same at any rate. A refusal writes nothing, so it costs no flush of an append-only file.
///
/// A clock that goes back by up to a second stands still for that long; by more, all that counted counts from now. One
/// that leaps forward lets a second have a tenth too many, since the bucket holds no more.
static GRANT: LazyLock<Script> = LazyLock::new(|| {
    let body = r"
        local rate, wanted, margin = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
        local SLICE, RING, SECOND = 2000, 1024, 1000000
        local time = redis.call('TIME')
        local now = time[1] * SECOND + time[2]
        local device, read = holds(KEYS[2], now, tonumber(ARGV[5]), tonumber(ARGV[4]))
        if read > 0 then rate = math.min(rate, device) end
        local state = redis.call('HMGET', KEYS[1], 'tokens', 'refilled', 'oldest', 'counted', 'started')
        local started = tonumber(state[5]) or 0
        local tokens, refilled = tonumber(state[1]) or 1, tonumber(state[2]) or now
        local gone = math.floor((now - SECOND) / SLICE)
        local oldest, counted = tonumber(state[3]) or gone, tonumber(state[4]) or 0
        if refilled - now > SECOND then
            redis.call('DEL', KEYS[1])
            if counted > 0 then redis.call('HSET', KEYS[1], math.floor((now + margin) / SLICE) % RING, counted) end
            tokens, refilled, oldest = 0, now, gone
            redis.call('HSET', KEYS[1], 'tokens', 0, 'refilled', now, 'oldest', gone, 'counted', counted,
                       'started', started)
        elseif now < refilled then
            now, gone = refilled, math.floor((refilled - SECOND) / SLICE)
        end
        local past, anew = {}, gone - oldest >= RING
        if anew then
            counted, oldest = 0, gone
        elseif counted == 0 then
            oldest = math.max(oldest, gone)
        else
            while oldest < gone do
                local count = redis.call('HGET', KEYS[1], oldest % RING)
                if count then
                    counted = counted - count
                    past[#past + 1] = oldest % RING
                end
                oldest = oldest + 1
            end
        end
        tokens = math.min(tokens + (now - refilled) / SECOND * rate, math.max(rate * 0.1, 1))
        local granted = math.min(wanted, math.floor(tokens), rate - counted)
        if granted < 1 then
            local wait = math.ceil((1 - tokens) / rate * SECOND) + 1
            if counted >= rate then
                local slice = oldest
                while slice < oldest + RING and (anew or not redis.call('HGET', KEYS[1], slice % RING)) do
                    slice = slice + 1
                end
                wait = math.max(wait, (slice + 1) * SLICE + SECOND - now)
            end
            return {0, math.min(math.max(wait, 1), SECOND), counted, device, read}
        end
        if anew then redis.call('DEL', KEYS[1]) end
        if #past > 0 then redis.call('HDEL', KEYS[1], unpack(past)) end
        redis.call('HINCRBY', KEYS[1], math.floor((now + margin) / SLICE) % RING, granted)
        redis.call('HSET', KEYS[1], 'tokens', tokens - granted, 'refilled', now, 'oldest', oldest,
                   'counted', counted + granted, 'started', started + granted)
        redis.call('PEXPIRE', KEYS[1], 10000)
        return {granted, 0, counted + granted, device, read}";
    Script::new(&[share::HOLDS, body].concat())
});

/// The governor of a database, as one of its processes sees it.
pub struct SharedLimiter {
    link: Arc<RedisLink>,
    key: String,
    /// Of what is found of the device.
    device_key: String,
    /// This one among those who find something.
    name: String,
    per_second: u32,
    /// Operations a second while nobody tells of the device; 0: it does not matter.
    unread: u32,
    /// The limit for the device's sake, as this one heard last.
    device: StdMutex<Option<DeviceLimit>>,
    turn: Mutex<Turn>,
    /// Callers that wait for an operation.
    waiting: AtomicUsize,
    /// Most operations that counted at once, of all processes, when this one was given some.
    peak: AtomicU32,
    /// Of the operations that did not go at once.
    waits: Histogram,
    away: Rarely,
}

/// What the caller whose turn it is has at hand.
struct Turn {
    grants: u32,
    until: Instant,
    margin: Duration,
    #[cfg(test)]
    widest: Duration,
}

impl Turn {
    /// Twice as long as answers take, so that few grants are given up.
    fn learn(&mut self, took: Duration) {
        let wanted = (took * 2).max(LEAST_MARGIN);
        self.margin = if wanted > self.margin { wanted } else { self.margin.mul_f64(0.98).max(wanted) };
        self.margin = self.margin.min(MOST_MARGIN);
        #[cfg(test)]
        {
            self.widest = self.widest.max(self.margin);
        }
    }
}

enum Answer {
    Granted(u32),
    Wait(Duration),
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SharedLimiter {
    /// All processes that name the same Redis and database share `per_second` operations, at least 1. How long
    /// operations wait is told to `waits`.
    #[must_use]
    pub fn new(link: Arc<RedisLink>, database: &str, per_second: u32, waits: Histogram) -> Self {
        let turn = Turn {
            grants: 0,
            until: Instant::now(),
            margin: LEAST_MARGIN,
            #[cfg(test)]
            widest: LEAST_MARGIN,
        };
        Self {
            link,
            key: format!("scalekit:{{database {database}}}:operations"),
            device_key: format!("scalekit:{{database {database}}}:device"),
            name: uuid::Uuid::now_v7().to_string(),
            per_second: per_second.max(1),
            unread: 0,
            device: StdMutex::new(None),
            turn: Mutex::new(turn),
            waiting: AtomicUsize::new(0),
            peak: AtomicU32::new(0),
            waits,
            away: Rarely::default(),
        }
    }

    /// While nobody reads the device, at most so many a second, at least 1.
    #[must_use]
    pub fn while_unread(mut self, per_second: u32) -> Self {
        self.unread = per_second.max(1);
        self.heard(Some(DeviceLimit { per_second: self.unread, is_measured: false }));
        self
    }

    fn heard(&self, limit: Option<DeviceLimit>) {
        *self.device.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    fn device(&self) -> Option<DeviceLimit> {
        *self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, margin: Duration) -> Result<Answer, String> {
        let most = (self.limit() / GROUPS_PER_SECOND).max(1);
        let wanted = u32::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(most).clamp(1, most);
        let lease = self.link.lease().await?;
        let mut connection = lease.connection.clone();
        let mut call = GRANT.prepare_invoke();
        call.key(&self.key).key(&self.device_key);
        call.arg(self.per_second).arg(wanted).arg(margin.as_micros() as u64);
        call.arg(self.unread).arg(share::GOOD_FOR.as_micros() as u64);
        let answer: Result<(u32, u64, u32, u32, u8), RedisError> = call.invoke_async(&mut connection).await;
        self.link.check(&lease, &answer);
        let (granted, wait, counted, device, read) =
            answer.map_err(|error| format!("Redis at {}: {error}", self.link.address()))?;
        self.heard(share::limit(device, read));
        if granted == 0 {
            return Ok(Answer::Wait(Duration::from_micros(wait)));
        }
        self.peak.fetch_max(counted, Ordering::Relaxed);
        Ok(Answer::Granted(granted))
    }

    /// One operation, as soon as it may start.
    async fn one(&self) -> Result<(), String> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let wanted = Instant::now();
        // Whoever has it asks for all who wait, and they take theirs in turn.
        let mut turn = self.turn.lock().await;
        let mut waited = wanted.elapsed() > Duration::from_millis(1);
        loop {
            let asked = Instant::now();
            if turn.grants > 0 && asked < turn.until {
                turn.grants -= 1;
                if waited {
                    self.waits.observe_time(wanted.elapsed());
                }
                return Ok(());
            }
            turn.grants = 0;
            let margin = turn.margin;
            let answer = self.ask(margin).await?;
            let took = asked.elapsed();
            turn.learn(took);
            if took > MOST_MARGIN {
                return Err(format!(
                    "Redis at {} took {} ms to answer",
                    self.link.address(),
                    took.as_millis()
                ));
            }
            match answer {
                Answer::Granted(grants) => {
                    turn.grants = grants;
                    turn.until = asked + margin;
                }
                Answer::Wait(wait) => {
                    waited = true;
                    // Not all processes at the same moment.
                    let jitter = (wait / 10).min(MOST_JITTER).mul_f64(fastrand::f64());
                    tokio::time::sleep(wait + jitter).await;
                }
            }
        }
    }
}

#[async_trait]
impl Throttle for SharedLimiter {
    /// While Redis is away it waits, since nobody else knows what was started.
    async fn acquire(&self) {
        while let Err(reason) = self.one().await {
            if let Some(unsaid) = self.away.now() {
                tracing::warn!(unsaid, reason, "database operations wait for their governor");
            }
            tokio::time::sleep(RETRY_PAUSE.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        }
    }

    async fn try_acquire(&self) -> Result<(), String> {
        self.one().await.map_err(|reason| {
            format!("the database is not asked while its operations cannot be counted: {reason}")
        })
    }
}

#[async_trait]
impl Limit for SharedLimiter {
    fn limit(&self) -> u32 {
        self.device().map_or(self.per_second, |device| device.per_second.min(self.per_second))
    }

    fn most(&self) -> u32 {
        self.per_second
    }

    fn limited_by(&self) -> LimitedBy {
        self.device().map_or(LimitedBy::Operations, |device| by(device, self.per_second))
    }

    async fn steer(&self, found: Option<DeviceLimit>) -> Result<u64, String> {
        let lease = self.link.lease().await?;
        let mut connection = lease.connection.clone();
        let shared = share::share(&mut connection, self, found).await;
        self.link.check(&lease, &shared);
        let (limit, started) =
            shared.map_err(|error| format!("Redis at {}: {error}", self.link.address()))?;
        self.heard(limit);
        Ok(started)
    }

    fn peak(&self) -> u32 {
        self.peak.load(Ordering::Relaxed)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
