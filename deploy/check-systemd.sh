#!/usr/bin/env bash
# The units as systemd runs them: installs this tree by the commands of docs/deployment-systemd.md into a copy of this
# machine, with a systemd of its own as pid 1, no network and nothing shared, and looks at what then happens. Needs root
# that may make namespaces; nothing outside of a temporary directory changes. One line per thing checked.
set -Eeuo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
patience_s=60

say() { printf 'systemd: %s\n' "$*"; }
fail() { printf 'systemd: FAILED: %s\n' "$*" >&2; exit 1; }

trap 'printf "systemd: FAILED: the check itself, in line %s\n" "$LINENO" >&2' ERR

# --- The copy of this machine: overlaid, with name spaces of its own; called as pid 1 of them ---------------------------

if [ "${1:-}" = --boot ]; then
    work=$2
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$work/layers"
    mkdir "$work/layers/upper" "$work/layers/work" "$work/layers/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layers/upper,workdir=$work/layers/work" "$work/layers/root"
    cd "$work/layers/root"
    mount -t proc proc proc
    mount --rbind /dev dev
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs tmpfs run
    rm -rf etc/systemd/system/* etc/systemd/system.conf.d var/lib/certstream etc/certstream opt/certstream
    mkdir -p opt usr/src etc/systemd/system/service.d srv/wheels before
    tar -xf "$work"/sdist/*.tar.gz -C usr/src
    mount --bind "$work/wheels" srv/wheels
    printf '[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n' > etc/systemd/system/check.target
    # Nothing of the machine itself is started, so there is no journal: what units say goes to a file
    printf '[Service]\nStandardOutput=append:/var/log/units\nStandardError=append:/var/log/units\n' \
        > etc/systemd/system/service.d/log.conf
    printf '[Unit]\nDefaultDependencies=no\n' > etc/systemd/system/service.d/alone.conf
    ip link set lo up
    pivot_root . before
    umount -l before
    mount --make-rshared /  # as systemd finds it where it boots a machine; credentials reach a unit by it
    exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        /lib/systemd/systemd --system --unit=check.target --log-target=console --show-status=no
fi

# --- What it takes ------------------------------------------------------------------------------------------------------

needs=()
command -v systemd-analyze > /dev/null && [ -x /lib/systemd/systemd ] || needs+=(systemd)
command -v sudo > /dev/null || needs+=(sudo)
command -v ip > /dev/null || needs+=(iproute2)
/usr/bin/python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || needs+=(python3-venv)
if [ ${#needs[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        say "installing ${needs[*]}"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "${needs[@]}"; } > /dev/null ||
            fail "apt-get could not install ${needs[*]}"
    else
        fail "needs these Debian packages: ${needs[*]}"
    fi
fi
[ "$(id -u)" = 0 ] || fail 'needs root: it starts a systemd of its own, in namespaces'
unshare -C -m -p -u -i -n -f true 2> /dev/null || fail 'this root may not make namespaces (a container without privileges?)'

work=$(mktemp -d)
machine='' pid=''
clean() {
    if [ -n "$machine" ]; then  # pid 1 of the copy goes with it, and all processes there with that
        kill -KILL "$machine" 2> /dev/null || true
        wait "$machine" 2> /dev/null || true
    fi
    if mountpoint -q "$work/cgroup"; then
        for _ in $(seq 100); do  # until the last process there is gone
            find "$work/cgroup/$group" -depth -type d -exec rmdir {} \; 2> /dev/null || true
            if [ ! -d "$work/cgroup/$group" ]; then break; fi
            sleep 0.1
        done
        umount "$work/cgroup"
    fi
    rm -rf "$work"
}
trap clean EXIT
group=certstream-check-$$
mkdir "$work/layers" "$work/wheels" "$work/sdist" "$work/cgroup"

make --silent -C "$root" .venv/installed
(cd "$root" && .venv/bin/python -m hatchling build --target sdist --directory "$work/sdist" > /dev/null 2>&1) ||
    fail 'the sdist cannot be built'
/usr/bin/python3 -m venv "$work/tools"
"$work/tools/bin/pip" download --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
    --dest "$work/wheels" --requirement "$root/requirements.lock" || fail 'the wheels of requirements.lock cannot be fetched'

mount -t cgroup2 cgroup2 "$work/cgroup" && mkdir "$work/cgroup/$group"
# shellcheck disable=SC2016
sh -c 'echo $$ > "$1" && shift && exec "$@"' sh "$work/cgroup/$group/cgroup.procs" \
    unshare -C -m -p -u -i -n -f --kill-child "${BASH_SOURCE[0]}" --boot "$work" > "$work/boot.log" 2>&1 &
machine=$!

# --- In it --------------------------------------------------------------------------------------------------------------

inside() {  # a script, in a shell in the copy
    nsenter -t "$pid" -a -r -w env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        HOME=/root PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
        PIP_NO_CACHE_DIR=1 bash -euo pipefail -c "$1"
}
show() { inside "systemctl show -P $1 ${2:-certstream}"; }
health() {  # a Python expression of `health`, the document of /health/deep
    inside "/opt/certstream/bin/python - <<'END'
import json, urllib.request
health = json.load(urllib.request.urlopen('http://127.0.0.1:8080/health/deep', timeout=10))
print($1)
END" 2> /dev/null
}
told() {  # what to know of a failure
    inside 'systemctl status --no-pager --lines=0 certstream || true; tail -n 40 /var/log/units' >&2 || true
}
restart() { inside 'systemctl restart certstream' || { told; fail 'systemctl restart certstream'; }; }
until_is() {  # what it is, the value to wait for, a command that prints it
    local what=$1 wanted=$2 got=''
    shift 2
    for _ in $(seq $((patience_s * 5))); do
        got=$("$@" 2>&1) || true
        [ "$got" != "$wanted" ] || return 0
        sleep 0.2
    done
    told
    fail "$what is ${got@Q}, not ${wanted@Q}"
}
is() {  # what it is, the value wanted, the value
    [ "$2" = "$3" ] || { told; fail "$1 is ${3@Q}, not ${2@Q}"; }
}
edit() {  # a name and lines of a drop-in for the service
    inside "mkdir -p /etc/systemd/system/certstream.service.d
        printf '%s\n' '$2' > /etc/systemd/system/certstream.service.d/$1.conf && systemctl daemon-reload"
}

for _ in $(seq $((patience_s * 5))); do
    pid=$(ps -o pid= --ppid "$machine" | tr -d ' ') || true
    if [ -n "$pid" ] && [ "$(inside 'systemctl is-system-running' 2> /dev/null)" = running ]; then break; fi
    kill -0 "$machine" 2> /dev/null || { cat "$work/boot.log" >&2; fail 'systemd does not start in a copy of this machine'; }
    sleep 0.2
done
say "a copy of this machine runs $(inside 'systemctl --version | head -n 1')"

# Every block of commands below "Install", as it stands in the document
commands=$(awk '/^## / { here = $0 == "## Install" } /^```/ { block = here && $0 == "```sh"; next } block' \
    "$root/docs/deployment-systemd.md")
[ -n "$commands" ] || fail 'docs/deployment-systemd.md has no commands below "Install"'
inside "cd /usr/src/certstream_server-* && $commands" > "$work/install.log" 2>&1 ||
    { cat "$work/install.log" >&2; fail 'a command of docs/deployment-systemd.md fails'; }
say "installed by $(wc -l <<< "$commands") lines of docs/deployment-systemd.md, and started"

units='certstream.service certstream-backfill@.service certstream-merge@.service'
for unit in $units; do
    file=/etc/systemd/system/$unit
    found=$(inside "rm -rf /tmp/v && mkdir /tmp/v && cp /etc/systemd/system/certstream* /tmp/v && mv /etc/systemd/system/service.d /tmp/kept
        systemd-analyze verify ${file/@./@check.} 2>&1 | grep -i certstream || true; mv /tmp/kept /etc/systemd/system/service.d")
    is "what systemd-analyze verify says of $unit" '' "$found"
    found=$(inside "systemd-analyze security --offline=true --threshold=20 $file" 2>&1) || fail "$unit: ${found##*$'\n'}"
    say "$unit: verify is clean, ${found##*→ }"
done

until_is 'state of the service' active show ActiveState
is 'its status' 'reading 0 of 0 logs, 0 entries behind, 0 clients' "$(show StatusText)"
is 'user of its process' certstream "$(inside 'stat -c %U /proc/$(systemctl show -P MainPID certstream)')"
is 'answer of /health/deep' '[]' "$(health 'health["logs"]')"
is 'its directory' 'certstream:certstream 750' "$(inside 'stat -c "%U:%G %a" /var/lib/certstream')"
say 'the shipped configuration starts unchanged: ready, answering, as user certstream, in /var/lib/certstream'
proc='/proc/$(systemctl show -P MainPID certstream)'
is 'CapEff, NoNewPrivs and Seccomp' '0000000000000000 1 2' \
    "$(inside "awk '/^(CapEff|NoNewPrivs|Seccomp):/ { print \$2 }' $proc/status | xargs")"
limit=$(inside "sed -n 's/^Max open files *//p' $proc/limits" | awk '{ print $1 }')
ceiling=$(inside 'ulimit -H -n')  # which systemd cannot raise where this root lacks CAP_SYS_RESOURCE
[ "$limit" = 65536 ] || [ "$limit" = "$ceiling" ] || fail "it may open $limit files only"
say "sandboxed: no new privileges, no capabilities, system calls filtered; $limit open files"

# Two simulated logs beside it, an archive, and upkeep that has something to do at once
inside "cat > /etc/systemd/system/logs.service <<'END'
[Service]
DynamicUser=yes
ExecStart=/opt/certstream/bin/certstream-ctlog --initial 3000 --rate 50 --port 8700
END
cat > /etc/certstream/config.yaml <<'END'
custom_logs:
  - {name: a, url: 'http://127.0.0.1:8700/sim-rfc6962/rfc6962/', operator: a}
static_logs:
  - {name: b, url: 'http://127.0.0.1:8700/sim-static/static/', operator: b}
log_lists: {enabled: false}
ct_log: {partial_tile_wait_secs: 1}
delta_sink: {enabled: true, flush_interval_secs: 1}
backfill: {staging_path: staging}
maintenance: {quiet_secs: 0, interval_secs: 10}
END
systemctl daemon-reload; systemctl start logs"
restart
until_is 'logs that it follows' 2 health 'sum(log["state"] == "following" for log in health["logs"])'
until_is 'state of the archive' "('healthy', True)" health '(health["archive"]["state"], health["archive"]["last_commit_s"] is not None)'
reading() { show StatusText | cut -d , -f 1; }
until_is 'beginning of its status' 'reading 2 of 2 logs' reading
say "streams and archives two simulated logs: $(show StatusText)"
until_is 'newest upkeep' succeeded health 'health["jobs"]["maintenance"]["state"]'
say 'upkeep runs in its niced process under the same sandbox'
inside 'systemctl reload certstream'
until_is 'newest backfill' succeeded health 'health["jobs"]["backfill"]["state"]'
until_is 'newest merge' succeeded health 'health["jobs"]["merge"]["state"]'
say 'systemctl reload starts a backfill, and the merge after it'

inside 'echo "FLAGS=--from 0" > /etc/certstream/backfill-check; systemctl start certstream-backfill@check' ||
    fail 'certstream-backfill@check fails'
is 'owner of what it fetched' certstream "$(inside 'stat -c %U /var/lib/certstream/staging-check/_delta_log')"
inside 'systemctl start certstream-merge@check' || fail 'certstream-merge@check fails'
is 'what is left of staging' gone "$(inside 'test -e /var/lib/certstream/staging-check || echo gone')"
rows=$(inside "cd /var/lib/certstream && /opt/certstream/bin/python -c \"
import os
from deltalake import DeltaTable
table = DeltaTable('data/certstream').to_pyarrow_table(columns=['source_url', 'cert_index'])
for url in sorted(set(table['source_url'].to_pylist())):
    found = sorted(row['cert_index'] for row in table.to_pylist() if row['source_url'] == url)
    assert found == list(range(len(found))) and len(found) >= 3000, url
print(table.num_rows, flush=True)
os._exit(0)  # threads of pyarrow may still be at work, and end the interpreter's end by SIGABRT\"") || fail 'the archive has gaps or doubled rows'
say "certstream-backfill@check and certstream-merge@check: the archive has all $rows entries, each once"
refused=$(inside 'cd /var/lib/certstream && /opt/certstream/bin/certstream --config /etc/certstream/config.yaml --maintain 2>&1 && echo "exit 0"' || true)
case $refused in *'belongs to certstream'*'sudo -u certstream certstream --maintain'*) ;; *) fail "root is not refused: $refused" ;; esac
said=$(inside 'cd /var/lib/certstream && sudo -u certstream certstream --config /etc/certstream/config.yaml --backfill --dry-run 2>&1') ||
    fail "sudo -u certstream does not run a command: $said"
is 'what is not owned by certstream' '' "$(inside 'find /var/lib/certstream ! -user certstream')"
say 'root is refused on its tables, sudo -u certstream is not; every file belongs to certstream'

inside "install -d -o certstream -g certstream /srv/archive
echo a-token-that-only-root-may-read > /etc/certstream/tokens; chmod 600 /etc/certstream/tokens
echo 'auth: {enabled: true, tokens_file: \"\${CREDENTIALS_DIRECTORY}/tokens\"}' >> /etc/certstream/config.yaml
echo CERTSTREAM_DELTA_SINK_TABLE_PATH=/srv/archive/main > /etc/certstream/environment"
edit elsewhere '[Service]
ReadWritePaths=/srv/archive
LoadCredential=tokens:/etc/certstream/tokens'
restart
until_is 'owner of an archive elsewhere' certstream inside 'stat -c %U /srv/archive/main/_delta_log'
answer() {  # the status of a stream's answer, by the header of the request
    inside "/opt/certstream/bin/python - '$1' <<'END'
import sys, urllib.error, urllib.request
request = urllib.request.Request('http://127.0.0.1:8080/sse?stream=lite', headers=dict([sys.argv[1].split(': ')]))
try:
    print(urllib.request.urlopen(request, timeout=10).status)
except urllib.error.HTTPError as exc:
    print(exc.code)
END"
}
is 'answers with and without a token' '200 401' \
    "$(answer 'Authorization: Bearer a-token-that-only-root-may-read') $(answer 'Accept: text/event-stream')"
say 'drop-ins as documented: an archive elsewhere, tokens as a credential, options in /etc/certstream/environment'

# A signal that really blocks the event loop, in the thread that runs it
inside "echo 'import signal; signal.signal(signal.SIGUSR1, lambda number, frame: __import__(\"time\").sleep(3600))' \
    > \$(/opt/certstream/bin/python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')/hang.pth"
edit watchdog '[Service]
WatchdogSec=4s
RestartSec=100ms'
restart
inside ': > /var/log/units; systemctl kill --kill-whom=main --signal=SIGUSR1 certstream'
until_is 'restarts after the loop hung' 1 show NRestarts
until_is 'state of the service' active show ActiveState
inside 'grep -q "in <lambda>" /var/log/units' || fail 'nothing says where it hung'
say 'a hung event loop is ended by the watchdog, says where it hung, and the service starts again'
inside 'systemctl kill --kill-whom=main --signal=SIGKILL certstream'
until_is 'restarts after SIGKILL' 2 show NRestarts
until_is 'state of the service' active show ActiveState
say 'killed, it starts again'

started=$(date +%s%N)
inside 'systemctl stop certstream'
took_ms=$((($(date +%s%N) - started) / 1000000))
is 'result of its end' 'success 0' "$(show Result) $(show ExecMainStatus)"
[ "$took_ms" -lt 8000 ] || fail "it takes $took_ms ms to end"
say "stopped in $took_ms ms, exit code 0"
