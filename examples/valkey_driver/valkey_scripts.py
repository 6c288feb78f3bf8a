"""The scripts of the Valkey driver. The server runs each of them alone, so that whatever one does is atomic.

All keys of a store have its prefix, KEYS[1].

    PREFIX:format             the format of the store
    PREFIX:run:RUN            hash: step, digest, status, floor, and the run's members of the two indexes
    PREFIX:records:RUN        hash: step -> record
    PREFIX:digests:RUN        hash: step -> digest
    PREFIX:keyed:RUN          hash: step -> its member of the next one, if the step has a key
    PREFIX:keys:RUN           sorted set: HEX.STEP, the key in hex and the step in 19 digits
    PREFIX:summaries          hash: run -> summary
    PREFIX:started, :updated  sorted sets whose members sort as lists do: the newest first, ties by run id
"""

from typing import Final

LIBRARY: Final = """
local prefix = KEYS[1]
local ended = {done = true, cancelled = true, moved = true}
local function run_key(run) return prefix .. ':run:' .. run end
local function records_key(run) return prefix .. ':records:' .. run end
local function digests_key(run) return prefix .. ':digests:' .. run end
local function keyed_key(run) return prefix .. ':keyed:' .. run end
local function keys_key(run) return prefix .. ':keys:' .. run end
local function keep(run, step, digest, record, key)
    redis.call('HSET', records_key(run), step, record)
    redis.call('HSET', digests_key(run), step, digest)
    if key ~= '' then
        redis.call('HSET', keyed_key(run), step, key)
        redis.call('ZADD', keys_key(run), 0, key)
    end
end
local function advance(run, step, digest, status, updated, summary)
    local before = redis.call('HGET', run_key(run), 'updated')
    redis.call('HSET', run_key(run), 'step', step, 'digest', digest, 'status', status, 'updated', updated)
    redis.call('HSET', prefix .. ':summaries', run, summary)
    if before then redis.call('ZREM', prefix .. ':updated', before) end
    redis.call('ZADD', prefix .. ':updated', 0, updated)
end
local function begin(run, floor, started)
    redis.call('HSET', run_key(run), 'floor', floor, 'started', started)
    redis.call('ZADD', prefix .. ':started', 0, started)
end
local function forget(run)
    local places = redis.call('HMGET', run_key(run), 'started', 'updated')
    if places[1] then redis.call('ZREM', prefix .. ':started', places[1]) end
    if places[2] then redis.call('ZREM', prefix .. ':updated', places[2]) end
    redis.call('HDEL', prefix .. ':summaries', run)
    redis.call('DEL', run_key(run))
    redis.call('HSET', run_key(run), 'status', 'deleted')
    redis.call('UNLINK', records_key(run), digests_key(run), keyed_key(run), keys_key(run))
end
"""

# Appends steps up to the first that does not fit, and returns how many are there, with what the store has of that one.
APPEND: Final = """
local run = ARGV[1]
for i = 2, #ARGV, 10 do
    local step, before, digest, previous, status = unpack(ARGV, i, i + 4)
    local stored = redis.call('HGET', digests_key(run), step)
    local tail = redis.call('HMGET', run_key(run), 'step', 'digest', 'status', 'floor')
    local fits = tail[1] == before and tail[2] == previous and not ended[tail[3]]
    if not tail[3] then fits = step == '0' end
    if stored ~= digest then
        if stored or not fits then return {(i - 2) / 10, stored, tail[1], tail[2], tail[3], tail[4]} end
        local started, updated, summary, record, key = unpack(ARGV, i + 5, i + 9)
        keep(run, step, digest, record, key)
        advance(run, step, digest, status, updated, summary)
        if step == '0' then begin(run, 0, started) end
    end
end
return {(#ARGV - 1) / 10}
"""

# Begins a run with what a prune has left of it; if the run is there, returns its status and the digests of those steps.
START: Final = """
local run = ARGV[1]
local known = redis.call('HGET', run_key(run), 'status')
local digests = {}
for i = 2, #ARGV, 10 do
    local step, _, digest, _, status, started, updated, summary, record, key = unpack(ARGV, i, i + 9)
    if known then
        table.insert(digests, redis.call('HGET', digests_key(run), step))
    else
        keep(run, step, digest, record, key)
        if i + 10 > #ARGV then
            advance(run, step, digest, status, updated, summary)
            begin(run, step, started)
        end
    end
end
return known and {known, digests}
"""

LATEST: Final = """
local step = redis.call('HGET', run_key(ARGV[1]), 'step')
return step and {step, redis.call('HGET', records_key(ARGV[1]), step)}
"""

STEPS: Final = """
local ends = redis.call('HMGET', run_key(ARGV[1]), 'floor', 'step')
return {ends[1] or 0, ends[2] or -1, redis.call('HKEYS', digests_key(ARGV[1]))}
"""

RECORDS: Final = """
local run = table.remove(ARGV, 1)
local ends = redis.call('HMGET', run_key(run), 'floor', 'step')
return {ends[1] or 0, ends[2] or -1, redis.call('HMGET', records_key(run), unpack(ARGV))}
"""

# Of each record its length and its beginning; -1 asks for all of it.
BEGINNINGS: Final = """
local run, most = table.remove(ARGV, 1), tonumber(table.remove(ARGV, 1))
local ends = redis.call('HMGET', run_key(run), 'floor', 'step')
local rows = {}
for i, step in ipairs(ARGV) do
    local record = redis.call('HGET', records_key(run), step)
    rows[i] = record and {#record, string.sub(record, 1, most)} or {}
end
return {ends[1] or 0, ends[2] or -1, rows}
"""

LATEST_STEP: Final = "return redis.call('HGET', run_key(ARGV[1]), 'step')"

# The highest member of each key, from a place downwards.
STEP_KEYS: Final = """
local run, place, limit = unpack(ARGV)
local found = {}
while #found < tonumber(limit) do
    local member = redis.call('ZREVRANGEBYLEX', keys_key(run), place, '-', 'LIMIT', 0, 1)[1]
    if not member then break end
    table.insert(found, member)
    place = '(' .. string.match(member, '^%x*%.')
end
return found
"""

PAGE: Final = """
local found = redis.call('ZRANGEBYLEX', prefix .. ':' .. ARGV[1], ARGV[2], '+', 'LIMIT', 0, ARGV[3])
if #found == 0 then return {{}, {}} end
for i, member in ipairs(found) do found[i] = string.sub(member, 20) end
return {found, redis.call('HMGET', prefix .. ':summaries', unpack(found))}
"""

DELETE: Final = """
if not redis.call('HGET', run_key(ARGV[1]), 'step') then return 0 end
forget(ARGV[1])
return 1
"""

# Removes steps of a run, or the run, if nobody has written to it since it was judged. A child run stays as long as its
# parent is there and has not ended: that may still have to read how the child ended.
PRUNE: Final = """
local run, digest, floor, parent, remove = unpack(ARGV, 1, 5)
if redis.call('HGET', run_key(run), 'digest') ~= digest then return 0 end
if floor == '' then
    local awaiting = parent ~= '' and redis.call('HGET', run_key(parent), 'status')
    if awaiting and awaiting ~= 'deleted' and not ended[awaiting] then return 0 end
    local gone = redis.call('HLEN', digests_key(run))
    if remove == '1' then forget(run) end
    return gone
end
local gone = 0
for i = 6, #ARGV do gone = gone + redis.call('HEXISTS', digests_key(run), ARGV[i]) end
if remove == '1' then
    for i = 6, #ARGV do
        redis.call('HDEL', digests_key(run), ARGV[i])
        redis.call('HDEL', records_key(run), ARGV[i])
        local key = redis.call('HGET', keyed_key(run), ARGV[i])
        if key then
            redis.call('ZREM', keys_key(run), key)
            redis.call('HDEL', keyed_key(run), ARGV[i])
        end
    end
    if tonumber(floor) > tonumber(redis.call('HGET', run_key(run), 'floor')) then
        redis.call('HSET', run_key(run), 'floor', floor)
    end
end
return gone
"""
