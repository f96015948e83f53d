"""The arithmetic of `policy.leases` as a script that Redis runs in one piece.

One key per bucket: a hash of ``t`` (tokens), ``a`` (the server's time they were counted at, Unix
seconds) and ``h<holder>`` (``tokens end``) for each loan. A key that is not there is a full
bucket, so that it may expire once it is full.
"""

import hashlib

from mcpguard.policy.leases import MAX_HOLDERS, MAX_LASTS, ROUNDING

MAX_TTL_MS = 10 * 366 * 86_400_000
"""The longest that a bucket is kept."""

SCRIPT = f"""
local per_second, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local holder = 'h' .. ARGV[3]
local least, extra, held = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local lasts, back = tonumber(ARGV[7]), tonumber(ARGV[8])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local tokens, at, lent, loans, count, ended = burst, now, 0, {{}}, 0, {{}}

local function text(number) return string.format('%.17g', number) end

local raw = redis.call('HGETALL', KEYS[1])
for i = 1, #raw, 2 do
  local name, value = raw[i], raw[i + 1]
  if name == 't' then tokens = tonumber(value)
  elseif name == 'a' then at = tonumber(value)
  else
    local blank = string.find(value, ' ', 1, true)
    local loan = {{name, tonumber(string.sub(value, 1, blank - 1)),
                  tonumber(string.sub(value, blank + 1))}}
    if loan[3] > now + {MAX_LASTS} then
      loan[3] = now + {MAX_LASTS}
      redis.call('HSET', KEYS[1], name, loan[2] .. ' ' .. text(loan[3]))
    end
    loans[name] = loan
    lent = lent + loan[2]
    count = count + 1
    if loan[3] <= now then ended[#ended + 1] = loan end
  end
end

local function flow(moment)
  if moment > at then
    tokens = tokens + (moment - at) * per_second
    at = moment
  end
  tokens = math.min(tokens, math.max(0, burst - lent))
end

local function close(loan)
  loans[loan[1]] = nil
  lent = lent - loan[2]
  count = count - 1
  redis.call('HDEL', KEYS[1], loan[1])
end

table.sort(ended, function(one, other) return one[3] < other[3] end)
for _, loan in ipairs(ended) do
  flow(loan[3])
  close(loan)
end
flow(now)

local own, kept = loans[holder], 0
if own then
  close(own)
  kept = math.min(held, own[2])
  tokens = tokens + math.min(back, own[2])
end
local granted = math.max(0, math.min(least, math.floor(tokens + {ROUNDING})))
tokens = tokens - granted
local elsewhere, more = lent, 0
if granted == least and extra > 0 and count < {MAX_HOLDERS} then
  local room = math.floor(burst / 2) - elsewhere - kept
  local share = tokens
  if count > 0 then share = tokens / 2 end
  more = math.max(0, math.min(extra, math.floor(share), room))
  tokens = tokens - more
end
local last = now
for _, loan in pairs(loans) do last = math.max(last, loan[3]) end
if kept + more > 0 then
  local finish = now + math.min(lasts, {MAX_LASTS})
  redis.call('HSET', KEYS[1], holder, (kept + more) .. ' ' .. text(finish))
  last = math.max(last, finish)
  count = count + 1
end
if count == 0 and tokens >= burst then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 't', text(tokens), 'a', text(now))
  local ttl = (burst - tokens) / per_second + (last - now)
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f',
    math.min(math.ceil(ttl * 1000) + 1000, {MAX_TTL_MS})))
end
return {{granted + more, kept, elsewhere, text(tokens) .. ' ' .. text(now)}}
"""
"""KEYS: the bucket. ARGV: refill per second, burst, holder, least, extra, held, lasts, and the
tokens given back. Returns new tokens, kept ones, those of other holders, and what is left in the
bucket with the server's time: as text, since Lua's numbers lose their fractions, and as one, since
txredisapi's own parser needs a turn of the reactor after each text that is not the last."""

SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""What ``EVALSHA`` calls it."""
