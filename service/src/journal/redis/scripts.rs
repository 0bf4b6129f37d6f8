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

/// What was delivered before and is not acknowledged, for the owner and nobody else, as [`READ`].
pub(super) static RECLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
        return redis.call('XAUTOCLAIM', KEYS[1], ARGV[2], ARGV[3], 0, ARGV[4], 'COUNT', ARGV[5])",
    )
});

/// Says that a process is there: the count of shards in force, when it joined, how many were there before it, and how
/// many there are. A member is `<joined, 16 digits> <16 digits of its start> <name>`, so that text order is the order
/// in which they joined. At its first beat it takes the place of a former one of its name, if it is to.
pub(super) static BEAT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        local count = redis.call('GET', KEYS[1])
        if count and count ~= ARGV[1] then return {tonumber(count), '', 0, 0} end
        if not count then redis.call('SET', KEYS[1], ARGV[1]) end
        local time = redis.call('TIME')
        local now = time[1] * 1000 + math.floor(time[2] / 1000)
        redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
        local joined = ARGV[3]
        if joined == '' then
            joined = string.format('%016d', now)
            for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
                if ARGV[5] == '1' and string.sub(member, 35) == string.sub(ARGV[4], 18) then
                    redis.call('ZREM', KEYS[2], member)
                end
            end
        end
        local me = joined .. ' ' .. ARGV[4]
        redis.call('ZADD', KEYS[2], now + ARGV[2], me)
        redis.call('PEXPIRE', KEYS[2], ARGV[2] * 2)
        local members = redis.call('ZRANGE', KEYS[2], 0, -1)
        local rank = 0
        for _, member in ipairs(members) do
            if member < me then rank = rank + 1 end
        end
        return {tonumber(ARGV[1]), joined, rank, #members}",
    )
});

/// Makes a count of shards the one in force; answers the count that is, and what stands against the other one: entries
/// that wait, processes that run. Without a count there is the one journal of former versions, or none.
///
/// A document may move to another journal then, and its versions are that journal's positions. So no new journal
/// may begin below the end of the others, which it would after a clock that went back: an entry above all of them is
/// added to each and trimmed at once.
///
/// A worker must be able to start on a server whose memory is full (`allow-oom`), or it stays full.
///
/// One step over several hash slots: a cluster, which is refused, would need more.
pub(super) static ADOPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        local wanted = tonumber(ARGV[1])
        local count = tonumber(redis.call('GET', KEYS[1]) or redis.call('EXISTS', KEYS[4]) == 1 and 1 or wanted)
        if count == wanted then
            redis.call('SET', KEYS[1], wanted)
            return {wanted, 0, 0}
        end
        local waiting = 0
        for i = 4, #KEYS do waiting = waiting + redis.call('XLEN', KEYS[i]) end
        if waiting > 0 then return {count, waiting, 0} end
        local time = redis.call('TIME')
        local live = 0
        for i = 2, 3 do
            redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', time[1] * 1000 + math.floor(time[2] / 1000))
            live = live + redis.call('ZCARD', KEYS[i])
        end
        if live > 0 then return {count, 0, live} end
        local ms, seq = 0, 0
        for i = 4, #KEYS do
            if redis.call('EXISTS', KEYS[i]) == 1 then
                local info = redis.call('XINFO', 'STREAM', KEYS[i])
                for f = 1, #info, 2 do
                    if info[f] == 'last-generated-id' then
                        local m, s = string.match(info[f + 1], '(%d+)-(%d+)')
                        m, s = tonumber(m), tonumber(s)
                        if m > ms or (m == ms and s > seq) then ms, seq = m, s end
                    end
                end
            end
        end
        local id = string.format('%d-%d', ms, seq + 1)
        for i = 4, 3 + wanted do redis.call('XADD', KEYS[i], 'MAXLEN', '=', 0, id, 'e', '') end
        redis.call('SET', KEYS[1], wanted)
        return {wanted, 0, 0}",
    )
});

/// Acknowledges and deletes in one step; a transaction would be refused when memory is full. The acknowledgement goes
/// in parts, since Lua takes some thousand arguments at the most.
///
/// Only what this call deletes is taken off the count of bytes, so one that is repeated takes nothing off twice. An empty
/// stream has none, whatever the count says: so it cannot drift for longer than until all is stored.
pub(super) static ACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=allow-oom
        for i = 2, #ARGV, 1000 do
            redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
        end
        local bytes = 0
        for i = 2, #ARGV do
            local size = 0
            for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])) do
                for field = 1, #entry[2], 2 do
                    if entry[2][field] == 'e' then size = size + #entry[2][field + 1] end
                end
            end
            bytes = bytes + size * redis.call('XDEL', KEYS[1], ARGV[i])
        end
        if redis.call('XLEN', KEYS[1]) == 0 then
            redis.call('DEL', KEYS[2])
        elseif bytes > 0 and redis.call('DECRBY', KEYS[2], bytes) < 0 then
            redis.call('DEL', KEYS[2])
        end
        return 1",
    )
});

/// Of each shard, by stream, counter of bytes and dead letters: length, id of the oldest entry, how many entries were ever
/// added (Redis 7.0), their bytes, and how many dead letters there are. Entries are deleted when acknowledged, so the length
/// is the backlog.
pub(super) static BACKLOG: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=no-writes
        local all = {}
        for shard = 1, #KEYS, 3 do
            local length = redis.call('XLEN', KEYS[shard])
            local info = redis.pcall('XINFO', 'STREAM', KEYS[shard])
            local oldest, added = '', 0
            for i = 1, info.err and 0 or #info, 2 do
                if info[i] == 'entries-added' then added = info[i + 1] end
                if info[i] == 'first-entry' and info[i + 1] then oldest = info[i + 1][1] end
            end
            local bytes = length > 0 and tonumber(redis.call('GET', KEYS[shard + 1]) or 0) or 0
            all[#all + 1] = {length, oldest, added, bytes, redis.call('XLEN', KEYS[shard + 2])}
        end
        return all",
    )
});

/// Of operations, by a stream and the key where one is remembered each, and as arguments the entry that its name gives, or
/// nothing: what is remembered, and the request with the version of its entry; or nothing, and the whole entry that
/// the name gives; two texts for each, empty where there is none.
pub(super) static HELD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"#!lua flags=no-writes
        local out = {}
        for i = 1, #KEYS, 2 do
            local named = ARGV[(i + 1) / 2]
            local place = redis.call('GET', KEYS[i + 1])
            out[i], out[i + 1] = place or '', ''
            local id, at, length
            if place then id, at, length = string.match(place, '^([%d-]+)%.%d+%.(%d+)%.(%d+)') end
            if not place and named ~= '' then id = named end
            local entry = id and redis.call('XRANGE', KEYS[i], id, id)[1]
            if entry and at then
                out[i + 1] = string.sub(entry[2][2], 1, 1) .. string.sub(entry[2][2], at + 1, at + length)
            elseif entry then
                out[i + 1] = entry[2][2]
            end
        end
        return out",
    )
});
