#!/bin/sh
# Install what the benchmarks drive: wrk, nginx and Redis from the system's packages, and below
# <repo>/.bench (ignored by git) the tools and the gateways of others. Run again it only checks.
# What cannot be had is named, and its rows are left out.
set -u
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
bench="$root/.bench"
python="${PYTHON:-$root/.venv/bin/python}"

mkdir -p "$bench"
if command -v flock >/dev/null; then
    # Two runs at once would install into each other.
    exec 9>"$bench/lock"
    flock 9
fi

say() { echo "$*" >&2; }
done_with() { [ -f "$bench/$1.done" ] && [ "$(cat "$bench/$1.done")" = "$2" ]; }

install_packages() {
    wanted=""
    command -v wrk >/dev/null || wanted="$wanted wrk"
    [ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || wanted="$wanted nginx-light"
    command -v redis-server >/dev/null || wanted="$wanted redis-server"
    command -v npm >/dev/null || wanted="$wanted nodejs npm"
    [ -n "$wanted" ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "Missing, and only root on Debian may install it here:$wanted"
        return 0
    fi
    say "Installing$wanted ..."
    apt-get update -qq
    # The packages' own services must not be started: they would take ports and processors.
    policy=/usr/sbin/policy-rc.d
    made=""
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=yes
    fi
    for package in $wanted; do
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "$package" >"$bench/apt.log" 2>&1 || say "$package could not be installed"
    done
    [ -z "$made" ] || rm -f "$policy"
}

install_python() { # NAME REQUIREMENTS...
    name="$1"
    shift
    done_with "$name" "$*" && [ -x "$bench/$name/bin/python" ] && return
    say "Installing $* ..."
    rm -rf "${bench:?}/$name" "$bench/$name.done"
    if "$python" -m venv "$bench/$name" &&
        "$bench/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; then
        printf '%s' "$*" >"$bench/$name.done"
    else
        say "$name could not be installed: its rows are left out"
    fi
}

install_node() { # NAME PACKAGES...
    name="$1"
    shift
    done_with "$name" "$*" && [ -d "$bench/$name/node_modules" ] && return
    command -v npm >/dev/null || return
    say "Installing $* ..."
    rm -rf "${bench:?}/$name" "$bench/$name.done"
    mkdir -p "$bench/$name"
    printf '{"name": "bench", "private": true}\n' >"$bench/$name/package.json"
    if (cd "$bench/$name" && npm install --silent --no-audit --no-fund "$@"); then
        printf '%s' "$*" >"$bench/$name.done"
    else
        say "$name could not be installed: its rows are left out"
    fi
}

install_packages
install_python tools uvloop orjson matplotlib py-spy
install_python fastmcp fastmcp
install_python mcp-proxy mcp-proxy
# Debian 12 has Node.js 18; the packages want a newer one, which npm brings for them alone.
install_node node supergateway node@22
exit 0
