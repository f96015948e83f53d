-- The load of every measurement, for wrk: `tools/call echo`, each request with an id and a text of
-- its own. Every answer's status is checked, and of every CHECK_EACH-th whether its id and its text
-- belong together. `done` prints one line of JSON.
--   BENCH_HEADERS  header lines, one a line; sets of them, with an empty line between, are for
--                  one thread after the other
--   BENCH_EXPECT   "echo", or the text that a constant answer contains
local CHECK_EACH = 8
local FIRST = 100000000
local expect = os.getenv("BENCH_EXPECT") or "echo"
local threads = {}
local prefix, middle, suffix
local answers = 0

id, bad, checked, sample = 0, 0, 0, ""

function setup(thread)
   thread:set("number", #threads)
   table.insert(threads, thread)
end

function init(args)
   local body = { '{"jsonrpc":"2.0","id":', ',"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello ', '"}}}' }
   -- Ids have nine digits, so that the length is always the same.
   local length = #body[1] + 9 + #body[2] + 9 + 50 + #body[3]
   local lines = { "POST " .. wrk.path .. " HTTP/1.1", "Host: " .. wrk.headers["Host"] }
   local sets = {}
   for set in ((os.getenv("BENCH_HEADERS") or "") .. "\n\n"):gmatch("(.-)\n\n") do
      table.insert(sets, set)
   end
   for line in sets[number % #sets + 1]:gmatch("[^\n]+") do
      table.insert(lines, line)
   end
   table.insert(lines, "Content-Length: " .. length)
   prefix = table.concat(lines, "\r\n") .. "\r\n\r\n" .. body[1]
   middle = body[2]
   suffix = " " .. string.rep("x", 49) .. body[3]
   id = FIRST + number * 100000000
end

function request()
   id = id + 1
   return prefix .. id .. middle .. id .. suffix
end

local function right(body)
   if expect ~= "echo" then
      return body:find(expect, 1, true) ~= nil
   end
   local said = body:match('hello (%d+) x')
   return said ~= nil and body:find('"id": ?' .. said) ~= nil
end

function response(status, headers, body)
   answers = answers + 1
   local fine = status == 200
   if fine and answers % CHECK_EACH == 1 then
      checked = checked + 1
      fine = right(body)
   end
   if not fine then
      bad = bad + 1
      if sample == "" then
         sample = status .. " " .. body:sub(1, 200):gsub('[%c"\\]', " ")
      end
   end
end

function done(summary, latency, requests)
   local wrong, seen, example = 0, 0, ""
   for _, thread in ipairs(threads) do
      wrong = wrong + thread:get("bad")
      seen = seen + thread:get("checked")
      if example == "" then example = thread:get("sample") end
   end
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p90_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,'
         .. '"bad":%d,"checked":%d,"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"sample":"%s"}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3,
      latency:percentile(99) / 1e3, latency.max / 1e3, wrong, seen, errors.status, errors.connect, errors.read,
      errors.write, errors.timeout, example))
end
