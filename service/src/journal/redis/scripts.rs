//! What the worker's side asks of Redis in one step each.

use std::sync::LazyLock;

use ::redis::Script;

// What takes entries away must work on a server whose memory is full (`allow-oom`), or it stays full.

pub(super) static OWN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        local owner = redis.call('GET', KEYS[1])
        if owner and owner ~= ARGV[1] and (ARGV[3] == '' or string.sub(owner, 18) ~= ARGV[3]) then return 0 end
        redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        return owner == ARGV[1] and 2 or 1",
    )
});

/// What [`OWN`] answers.
pub(super) const OWNED_BY_ANOTHER: u8 = 0;
/// It was not this consumer's until now.
pub(super) const TAKEN: u8 = 1;

pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
    )
});

/// From 0, never from `$`: what waits in the stream is accepted.
pub(super) static CREATE_GROUP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        local created = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
        if created.err and not string.find(created.err, 'BUSYGROUP') then return created end
        return 1",
    )
});

/// New entries for the owner and nobody else, in one step: a consumer that stood still after it looked whose the shard
/// is would be given entries that belong between another's, and a store takes the later of two merges only. It does
/// not wait. 0: the shard is not the consumer's.
pub(super) static READ: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
        return redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[4], 'STREAMS', KEYS[1], '>')",
    )
});

/// Acknowledges and deletes in one step; a transaction would be refused when memory is full. In parts, since
/// Lua takes some thousand arguments at the most.
pub(super) static ACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        for i = 2, #ARGV, 1000 do
            local last = math.min(i + 999, #ARGV)
            redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, i, last))
            redis.call('XDEL', KEYS[1], unpack(ARGV, i, last))
        end
        return 1",
    )
});

/// Length, id of the oldest entry, how many entries were ever added (Redis 7.0), and how many dead letters there are.
/// Entries are deleted when acknowledged, so the length is the backlog.
pub(super) static BACKLOG: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=no-writes
        local length = redis.call('XLEN', KEYS[1])
        local dead = redis.call('XLEN', KEYS[2])
        local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
        if info.err then return {length, '', 0, dead} end
        local oldest, added = '', 0
        for i = 1, #info, 2 do
            if info[i] == 'entries-added' then added = info[i + 1] end
            if info[i] == 'first-entry' and info[i + 1] then oldest = info[i + 1][1] end
        end
        return {length, oldest, added, dead}",
    )
});
