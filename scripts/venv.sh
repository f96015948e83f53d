#!/bin/sh
# Make <repo>/.venv with this package and the extras named in $1 ("", "test" or "dev"); run again
# it only checks. PYTHON names the interpreter, otherwise the newest suitable one is taken.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
extras="${1:-}"
venv="$root/.venv"
cd "$root"

suitable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed; name it with PYTHON=..." >&2
    return 1
}

make_venv() {
    python=$(find_python)
    rm -rf "$venv"
    "$python" -m venv "$venv" >/dev/null 2>&1 && return
    rm -rf "$venv"
    # Debian's python3 comes without ensurepip, which venv needs.
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "$version-venv" >/dev/null
        "$python" -m venv "$venv"
    else
        echo "$python cannot make virtual environments; install $version-venv first:" >&2
        echo "  sudo apt-get install $version-venv" >&2
        return 1
    fi
}

if command -v flock >/dev/null; then
    # Two runs at once would install into each other. The lock is on this script itself.
    exec 9<"$0"
    flock 9
fi

"$venv/bin/python" -c 'import pip' 2>/dev/null && suitable "$venv/bin/python" || make_venv

# Installed is what the stamp of this or a larger set of extras says, for this pyproject.toml.
wanted=$(cksum <pyproject.toml)
case "$extras" in
"") enough="base test dev" ;;
test) enough="test dev" ;;
dev) enough="dev" ;;
*)
    echo "unknown extras: $extras" >&2
    exit 2
    ;;
esac
for done in $enough; do
    if [ "$(cat "$venv/installed-$done" 2>/dev/null)" = "$wanted" ]; then
        exit 0
    fi
done
echo "Installing mcp-guard into .venv ..." >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --editable ".${extras:+[$extras]}"
printf '%s' "$wanted" >"$venv/installed-${extras:-base}"
