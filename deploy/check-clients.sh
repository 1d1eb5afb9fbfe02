#!/usr/bin/env bash
# Runs the server with clients of the package registries, each in an environment of its own, and every example of
# docs/clients.md. Needs bash, curl, Node 18 or newer with npm, and the registries of PyPI and npm; takes about a minute.
# The server runs with $PYTHON, by default that of `make`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for tool in curl node npm; do
  command -v "$tool" >/dev/null || { echo "check-clients: no $tool here; on Debian: apt install curl nodejs npm" >&2; exit 1; }
done
python=$(command -v "${PYTHON:-.venv/bin/python}") || { echo "check-clients: no ${PYTHON:-.venv/bin/python}: run make first" >&2; exit 1; }
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
