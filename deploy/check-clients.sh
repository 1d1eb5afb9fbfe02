#!/usr/bin/env bash
# Runs the server with clients of the package registries, each in an environment of its own, and every example of
# docs/clients.md. Needs curl, Node 18 or newer with npm, and the registries of PyPI and npm; takes about a minute.
# The server runs with $PYTHON, by default that of `make`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { printf 'check-clients: %s\n' "$*" >&2; exit 1; }

missing() { for tool in curl node npm; do command -v "$tool" >/dev/null || echo "$tool"; done; }

install() {
    local packages=(curl nodejs npm)
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "needs $(missing | xargs); on Debian: ${packages[*]}"
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update >/dev/null || fail "apt-get update; it was to install ${packages[*]}"
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null ||
        fail "apt-get could not install ${packages[*]}"
}

[ -z "$(missing)" ] || install
python=$(command -v "${PYTHON:-.venv/bin/python}") || fail "no ${PYTHON:-.venv/bin/python} here: run make first"
case $python in /*) ;; *) python=$PWD/$python ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for name in pypi websockets; do
    "$python" -m venv "$work/$name"
done
"$work/pypi/bin/python" -m pip install --quiet --disable-pip-version-check 'certstream==1.12'
"$work/websockets/bin/python" -m pip install --quiet --disable-pip-version-check 'websockets>=15'
mkdir "$work/node"
npm install --prefix "$work/node" --no-audit --no-fund --loglevel=error 'ws@8' 'eventsource@3' >/dev/null

"$python" -m deploy.clients.check --server "$python" --pypi "$work/pypi/bin/python" \
    --websockets "$work/websockets/bin/python" --node "$work/node" --work "$work"
echo 'check-clients: ok'
