#!/bin/sh
# Install the software of others that the live tests drive: Python and TypeScript SDKs, the reference
# servers and an identity provider, below <repo>/.live (ignored by git); and, as root on Debian, npm,
# Redis and nginx. Run again it only checks what is there.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
live="$root/.live"
python="${PYTHON:-python3}"
packages="@modelcontextprotocol/sdk@1 @modelcontextprotocol/client@2 \
@modelcontextprotocol/server-everything @modelcontextprotocol/server-filesystem zod undici@7"

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

install_npm() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm
    else
        echo "npm is missing and only root may install it: the tests that need it are skipped" >&2
    fi
}

install_debian() { # PACKAGE
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1"
    else
        echo "$1 is missing and only root may install it: the tests that need it are skipped" >&2
    fi
}

install_node() { # NAME NODE_MAJOR PACKAGES
    wanted="$3"
    # Debian 12 has Node.js 18, so npm brings a newer one for the packages alone.
    node -e "process.exit(parseInt(process.versions.node) < $2 ? 1 : 0)" || wanted="$wanted node@22"
    done_with "$1" "$wanted" && [ -d "$live/$1/node_modules" ] && return
    rm -rf "${live:?}/$1" "$live/$1.done"
    mkdir -p "$live/$1"
    printf '{"name": "live-tests", "private": true}\n' >"$live/$1/package.json"
    # The list is split into words on purpose.
    # shellcheck disable=SC2086
    (cd "$live/$1" && npm install --silent --no-audit --no-fund $wanted)
    printf '%s' "$wanted" >"$live/$1.done"
}

install_python mcp1 'mcp<2'
install_python mcp2 'mcp>=2'
command -v redis-server >/dev/null || install_debian redis-server
command -v curl >/dev/null || install_debian curl
command -v openssl >/dev/null || install_debian openssl
# The tests start one of their own, which is not on the path of everybody.
PATH="$PATH:/usr/sbin" command -v nginx >/dev/null || install_debian nginx-light
command -v npm >/dev/null || install_npm
if command -v npm >/dev/null; then
    install_node node 20 "$packages"
    # No tag names the newest alpha; the range takes it, and what is released after it.
    install_node conformance 22 '@modelcontextprotocol/conformance@^0.2.0-alpha'
    # An identity provider that issues real tokens.
    install_node provider 22 'oidc-provider@9'
fi
