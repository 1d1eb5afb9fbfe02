#!/usr/bin/env bash
# The wheel and the sdist: built from a copy of what git knows here, checked, looked into, installed where nothing else
# is, and started. Needs no root. One line per thing checked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=(build==1.6.1 twine==7.0.0)

say() { printf 'package: %s\n' "$*"; }
fail() { printf 'package: FAILED: %s\n' "$*" >&2; exit 1; }

if [ -z "${PYTHON:-}" ]; then make --no-print-directory .venv/installed; fi
python=${PYTHON:-.venv/bin/python}
work=$(mktemp -d)
demo=
clean() {
    if [ -n "$demo" ]; then kill -KILL "$demo" 2> /dev/null || true; fi
    rm -rf "$work"
}
trap clean EXIT
quiet=(--quiet --disable-pip-version-check)

mkdir "$work/tree"
git ls-files -z | while IFS= read -r -d '' name; do [ ! -e "$name" ] || printf '%s\0' "$name"; done |
    tar --null --files-from=- -cf - | tar -xf - -C "$work/tree"
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install "${quiet[@]}" "${tools[@]}"
"$work/tools/bin/python" -m build --outdir "$work/dist" "$work/tree" > "$work/log" 2>&1 ||
    { cat "$work/log" >&2; fail 'python -m build'; }
sdist=$(echo "$work"/dist/*.tar.gz) wheel=$(echo "$work"/dist/*.whl)
say "python -m build: ${sdist##*/} and, from it, ${wheel##*/}"
"$work/tools/bin/python" -m twine --no-color check --strict "$sdist" "$wheel" > "$work/log" 2>&1 ||
    { cat "$work/log" >&2; fail 'twine check'; }
say 'twine check --strict: passed'

"$python" - "$work/tree" "$sdist" "$wheel" <<'END' || fail 'a file is missing or does not belong there'
import sys, tarfile, zipfile
from pathlib import Path

tree, sdist, wheel = Path(sys.argv[1]), *sys.argv[2:]


def compare(what: str, found: set[str], wanted: set[str]) -> None:
    if found != wanted:
        sys.exit(f"package: {what}: missing {sorted(wanted - found)}, superfluous {sorted(found - wanted)}")


known = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
with tarfile.open(sdist) as archive:
    compare("sdist", {name.partition("/")[2] for name in archive.getnames()}, known | {"PKG-INFO"})
names = zipfile.ZipFile(wheel).namelist()
info = next(name for name in names if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
metadata = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
package = {name for name in known if name.startswith("certstream/")}
compare("wheel", set(names), package | metadata)
print(f"package: the sdist holds the {len(known)} files of the tree, the wheel the {len(package)} of the package alone")
END

"$python" -m venv "$work/clean"
"$work/clean/bin/python" -m pip download "${quiet[@]}" --require-hashes --only-binary :all: --dest "$work/wheels" \
    --requirement requirements.lock || fail 'the wheels of requirements.lock cannot be fetched'
"$work/clean/bin/python" -m pip install "${quiet[@]}" --no-index --find-links "$work/wheels" "$wheel" ||
    fail 'the wheel cannot be installed with what requirements.lock names'
"$work/clean/bin/python" -m pip check > /dev/null || fail 'pip check'
cd "$work"
version=$(clean/bin/certstream --version)
built=${wheel##*/certstream_server-}
[ "$version" = "certstream-server ${built%%-*}" ] || fail "certstream --version says $version"
clean/bin/certstream-ctlog --help > /dev/null || fail 'certstream-ctlog --help'
clean/bin/certstream --validate-config > /dev/null 2>&1 || fail 'certstream --validate-config'
say "installed into an environment of its own: $version"

CERTSTREAM_HOST=127.0.0.1 CERTSTREAM_PORT=0 CERTSTREAM_LOG_FORMAT=json clean/bin/certstream --demo 2> demo.log &
demo=$!
clean/bin/python - "$demo" <<'END' || { cat demo.log >&2; fail 'certstream --demo does not stream'; }
import json, os, sys, time, urllib.request

until = time.monotonic() + 60
while not (serving := [line for line in map(json.loads, open("demo.log")) if line["event"] == "serving"]):
    os.kill(int(sys.argv[1]), 0)
    assert time.monotonic() < until, "it does not serve"
    time.sleep(0.1)
with urllib.request.urlopen(f"{serving[0]['url']}sse?stream=domains", timeout=60) as stream:
    first = next(json.loads(line[6:]) for line in stream if line.startswith(b"data: "))
print(f"package: certstream --demo streams: {first['message_type']}, {first['data'][0]}")
END
kill -TERM "$demo"
code=0; wait "$demo" || code=$?
demo=
[ "$code" = 0 ] || fail "certstream --demo ends with exit code $code"
