#!/usr/bin/env bash
# Checks what deploy/ holds for Prometheus and Grafana with Debian's package prometheus: promtool reads configuration and
# alerts and runs the alerts' tests; a real Prometheus scrapes the demo and answers every query of dashboard and alerts.
# From a clean clone; as root it installs the package, else it names it. Nothing stays behind, ports are free ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { printf 'check-prometheus: %s\n' "$*" >&2; exit 1; }
passed() { printf 'ok   %s\n' "$*"; }
# What a command says is shown only where it fails.
quietly() { local said; said=$("$@" 2>&1) || { printf '%s\n' "$said" >&2; return 1; }; }

if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
    command -v apt-get >/dev/null || fail 'prometheus and promtool are needed; Debian has both in its package prometheus'
    [ "$(id -u)" = 0 ] || fail 'the package prometheus is needed: sudo apt-get install --no-install-recommends prometheus'
    # Its service must not start: the package is here for its two programs.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod 755 $policy
        trap 'rm -f "$policy"' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get update || fail 'apt-get update'
    quietly apt-get install -y --no-install-recommends prometheus || fail 'the package prometheus cannot be installed'
    passed 'the package prometheus is installed'
fi

python=${PYTHON:-.venv/bin/python}
if [ -z "${PYTHON:-}" ]; then
    make --no-print-directory .venv/installed
fi

quietly promtool check config deploy/prometheus.yml || fail 'promtool check config: deploy/prometheus.yml'
passed 'promtool check config deploy/prometheus.yml'
quietly promtool check rules deploy/alerts.yml || fail 'promtool check rules: deploy/alerts.yml'
passed 'promtool check rules deploy/alerts.yml'
quietly promtool test rules deploy/alerts_test.yml || fail 'promtool test rules: deploy/alerts_test.yml'
passed "promtool test rules deploy/alerts_test.yml ($(grep -c '^  - name:' deploy/alerts_test.yml) alerts)"

"$python" -W error deploy/check_prometheus.py || fail 'a real Prometheus that scrapes the demo'
