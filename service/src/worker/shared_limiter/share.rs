//! What the processes that can read the database's device find, in the journal's Redis: a hash with a field a process. It
//! is the lowest limit of those who read that holds; only without them, the lowest of those who could read before. A limit
//! is good for [`GOOD_FOR`] and is renewed before, so that one that nobody stands for any more is over then; what holds
//! after that is each process's own, [`super::SharedLimiter::while_unread`].

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script};

use super::SharedLimiter;
use crate::worker::governor::DeviceLimit;

/// Many samples of a reader that is alive, and short enough for one that died.
pub(super) const GOOD_FOR: Duration = Duration::from_secs(5);
/// It writes only what is new, or would be over in less than that, so that a limit that stays costs a flush a second.
const RENEWED_FROM: Duration = Duration::from_secs(4);

/// What both scripts begin with: the limit that holds at `now`, and 1 if the device is read, 2 if not, both 0 if there is
/// none. One that is good for longer than it may be was written by a clock that has gone back.
pub(super) const HOLDS: &str = r"#!lua flags=allow-oom
    local function parts(text, now, good)
        local limit, last, read = string.match(text, '^(%d+) (%d+) ([01])$')
        local left = (tonumber(last) or 0) - now
        if left > 0 and left <= good then return tonumber(limit), tonumber(read), left end
    end
    local function holds(key, now, good, unread)
        local lowest = {}
        local found = redis.call('HGETALL', key)
        for at = 2, #found, 2 do
            local limit, read = parts(found[at], now, good)
            if limit then lowest[read] = math.min(lowest[read] or limit, limit) end
        end
        if lowest[1] then return lowest[1], 1 end
        if lowest[0] then return lowest[0], 2 end
        if unread > 0 then return unread, 2 end
        return 0, 0
    end
";

/// Answers the limit that holds and the operations that were started so far. A limit of 0 only asks, and writes nothing.
static SHARE: LazyLock<Script> = LazyLock::new(|| {
    let body = r"
        local me, limit, measured = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
        local good, renewed, unread = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
        local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        if limit > 0 then
            local fields, gone, fresh = redis.call('HGETALL', KEYS[2]), {}, false
            for at = 1, #fields, 2 do
                local value, read, left = parts(fields[at + 1], now, good)
                if fields[at] == me then
                    fresh = value == limit and read == measured and left >= renewed
                elseif not value then
                    gone[#gone + 1] = fields[at]
                end
            end
            if not fresh then
                if #gone > 0 then redis.call('HDEL', KEYS[2], unpack(gone)) end
                redis.call('HSET', KEYS[2], me, string.format('%.0f %.0f %.0f', limit, now + good, measured))
                redis.call('PEXPIRE', KEYS[2], math.ceil(good / 1000) * 2)
            end
        end
        local holding, read = holds(KEYS[2], now, good, unread)
        return {holding, read, tonumber(redis.call('HGET', KEYS[1], 'started')) or 0}";
    Script::new(&[HOLDS, body].concat())
});

/// Puts the limit there that this process has found, if it has; returns the one that holds, and the operations that
/// were started so far.
pub(super) async fn share(
    connection: &mut MultiplexedConnection,
    limiter: &SharedLimiter,
    found: Option<DeviceLimit>,
) -> Result<(Option<DeviceLimit>, u64), RedisError> {
    let (limit, is_measured) = found.map_or((0, false), |found| (found.per_second.max(1), found.is_measured));
    let mut call = SHARE.prepare_invoke();
    call.key(&limiter.key).key(&limiter.device_key);
    call.arg(&limiter.name).arg(limit).arg(u8::from(is_measured));
    call.arg(GOOD_FOR.as_micros() as u64).arg(RENEWED_FROM.as_micros() as u64).arg(limiter.unread);
    let (limit, read, started): (u32, u8, u64) = call.invoke_async(connection).await?;
    Ok((super::share::limit(limit, read), started))
}

/// As the scripts answer it: 0 is none, 1 is measured, 2 is not.
pub(super) fn limit(per_second: u32, read: u8) -> Option<DeviceLimit> {
    (read > 0).then_some(DeviceLimit { per_second, is_measured: read == 1 })
}
