#!/bin/sh
# A gateway to try: configured in <repo>/.run in front of the demo server, with a fresh API key.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
port="${PORT:-3000}"
guard="$root/.venv/bin/mcp-guard"
user="make-run"
mkdir -p "$root/.run"
cd "$root/.run"

[ -f mcp-guard.toml ] || "$guard" init >/dev/null

if grep -q "^id = \"$user\"" mcp-guard.toml; then
    # The key of the last run was shown once and is not stored: put a new one in its place.
    made=$("$guard" keygen --user-id "$user")
    hash=$(printf '%s\n' "$made" | sed -n 's/^key_hash = "\(.*\)"$/\1/p')
    sed "/^id = \"$user\"/,/^key_hash/ s|^key_hash = .*|key_hash = \"$hash\"|" mcp-guard.toml >new
    cat new >mcp-guard.toml
    rm new
else
    made=$("$guard" keygen --user-id "$user" --apply-to-config)
fi
key=$(printf '%s\n' "$made" | sed -n 's/^ *\(mcp_.*\)$/\1/p')
"$guard" validate >/dev/null

cat <<MESSAGE
Your API key (made for this run, only its hash is stored):

  $key

When the gateway is ready, list the demo server's tools:

  curl -s http://localhost:$port/mcp -H 'Authorization: Bearer $key' -H 'Content-Type: application/json' -d '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'

Configuration: .run/mcp-guard.toml. Stop with Ctrl-C.

MESSAGE
exec "$guard" run --port "$port"
