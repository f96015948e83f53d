#!/bin/sh
# Install the MCP software of others that the live tests drive: Python and TypeScript SDKs, and the
# reference servers, below <repo>/.live (ignored by git). Run again it only checks what is there.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
live="$root/.live"
python="${PYTHON:-python3}"
packages="@modelcontextprotocol/sdk@1 @modelcontextprotocol/client@2 \
@modelcontextprotocol/server-everything @modelcontextprotocol/server-filesystem zod"

mkdir -p "$live"
if command -v flock >/dev/null; then
    # Two runs at once would install into each other.
    exec 9>"$live/lock"
    flock 9
fi

# done_with NAME WHAT: whether NAME was installed from WHAT to the end.
done_with() { [ -f "$live/$1.done" ] && [ "$(cat "$live/$1.done")" = "$2" ]; }

install_python() { # NAME REQUIREMENT
    done_with "$1" "$2" && "$live/$1/bin/python" -c "import mcp" 2>/dev/null && return
    rm -rf "${live:?}/$1" "$live/$1.done"
    "$python" -m venv "$live/$1"
    "$live/$1/bin/python" -m pip install --quiet --disable-pip-version-check "$2"
    printf '%s' "$2" >"$live/$1.done"
}

install_node() {
    if ! command -v npm >/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm
        else
            echo "npm is missing and only root may install it: the tests that need it are skipped" >&2
            return
        fi
    fi
    # The packages need Node.js 20; Debian 12 has 18, so npm brings a newer one for them alone.
    node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || packages="$packages node@22"
    done_with node "$packages" && [ -d "$live/node/node_modules/@modelcontextprotocol" ] && return
    rm -rf "$live/node" "$live/node.done"
    mkdir -p "$live/node"
    printf '{"name": "live-tests", "private": true}\n' >"$live/node/package.json"
    # The list is split into words on purpose.
    # shellcheck disable=SC2086
    (cd "$live/node" && npm install --silent --no-audit --no-fund $packages)
    printf '%s' "$packages" >"$live/node.done"
}

install_python mcp1 'mcp<2'
install_python mcp2 'mcp>=2'
install_node
