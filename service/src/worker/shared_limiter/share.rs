//! What the processes that can read the database's device find, in the journal's Redis: a hash with a field a process,
//! and what follows from all of them. It is the lowest limit of those who read; only without them, the lowest of those who
//! could read before. A limit is good for [`GOOD_FOR`] and is renewed before, so that one that nobody stands for any more
//! is over then; what holds after that is each process's own, [`super::SharedLimiter::while_unread`].

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

/// Answers the limit as the other script does, and the operations that were started so far. A limit of 0 only asks, and
/// writes nothing. One that is good for longer than it may be was written by a clock that has gone back.
static SHARE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        local limit, measured = tonumber(ARGV[2]), tonumber(ARGV[3])
        local good, renewed, unread = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
        local me = 'by ' .. ARGV[1]
        local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        local lowest, ends, gone, mine = {}, {}, {}, true
        local function count(value, last, read)
            lowest[read] = math.min(lowest[read] or value, value)
            ends[read] = math.max(ends[read] or last, last)
        end
        local fields = redis.call('HGETALL', KEYS[2])
        for at = 1, #fields, 2 do
            local value, last, read = string.match(fields[at + 1], '^(%d+) (%d+) ([01])$')
            value, last, read = tonumber(value), tonumber(last), tonumber(read)
            if string.sub(fields[at], 1, 3) == 'by ' then
                local left = (last or 0) - now
                local holds = left > 0 and left <= good
                if fields[at] == me and limit > 0 then
                    mine = not holds or value ~= limit or read ~= measured or left < renewed
                    if not mine then count(value, last, read) end
                elseif holds then
                    count(value, last, read)
                else
                    gone[#gone + 1] = fields[at]
                end
            end
        end
        if limit > 0 and mine then count(limit, now + good, measured) end
        local read = lowest[1] and 1 or 0
        if limit > 0 and mine then
            if #gone > 0 then redis.call('HDEL', KEYS[2], unpack(gone)) end
            redis.call('HSET', KEYS[2], me, string.format('%.0f %.0f %.0f', limit, now + good, measured),
                       'limit', lowest[read], 'until', ends[read], 'measured', read)
            redis.call('PEXPIRE', KEYS[2], math.ceil(good / 1000) * 2)
        end
        local started = tonumber(redis.call('HGET', KEYS[1], 'started')) or 0
        if lowest[read] then return {lowest[read], 2 - read, started} end
        if unread > 0 then return {unread, 2, started} end
        return {0, 0, started}",
    )
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
