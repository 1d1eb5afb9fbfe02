"""What must hold after benchmarks.soak, and the report on it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from benchmarks.soak_world import World
from certstream.evidence import EvidenceStore
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust, ledger_beside
from tests.archive.archive_support import committed_files, data_files
from tests.e2e.command_support import MAIN, STAGING
from tests.e2e.faults_support import archived

_MORE_BYTES = 200 << 20  # between the second sample of a run of the service and its last
_MORE_FILES = 100
_MORE_THREADS = 20


def audit(world: World) -> list[str]:
    """What does not hold; prints the report."""
    violations = [*_rows(world), *_trust(world), *_evidence(world), *_files(world), *_growth(world)]
    _report(world)
    return violations


def _rows(world: World) -> Iterator[str]:
    """Every index is one row with the content of the log's own entry."""
    found = archived(world.directory / MAIN)
    for name, log in world.logs.items():
        rows = found.pop(world.url_of(name), [])
        indices = [index for index, _ in rows]
        if indices != list(range(log.tree_size)):
            doubled = sorted({index for at, index in enumerate(indices[1:]) if indices[at] == index})
            missing = sorted({*range(log.tree_size)} - {*indices})
            yield f"rows of {name}: doubled {doubled[:10]}, missing {missing[:10]} of {log.tree_size}"
        wrong = [index for index, digest in rows if digest != sha256(log.entry(index).der).digest().hex(":").upper()]
        if wrong:
            yield f"rows of {name} with another content than the log's: {wrong[:10]}, {len(wrong)} in all"
    if found:
        yield f"rows of logs that nobody knows: {sorted(found)}"


def _trust(world: World) -> Iterator[str]:
    """All of a log that never contradicted itself is verified, as is all that was read under `enforce`."""
    ledger = Ledger(ledger_beside(world.directory / MAIN)).read()
    for name, log in world.logs.items():
        trust = ledger.get(world.url_of(name), Trust())
        if len(trust.verified & trust.tainted):
            yield f"{name}: verified and tainted at the same time"
        ahead = (trust.verified | trust.tainted) - Intervals.of((0, log.tree_size))
        if len(ahead):
            yield f"{name}: {ahead.count} entries are known that no row is of, from {ahead.lowest} on"
        left = Intervals.of((0, log.tree_size)) - trust.verified
        if len(left) and (name not in world.suspects or name.startswith("enforce")):
            yield f"{name}: {left.count} entries are not verified, from {left.lowest} on"


def _evidence(world: World) -> Iterator[str]:
    """Only logs that contradicted themselves are accused of it."""
    accused = set(EvidenceStore(world.directory / "evidence").suspects(world.server.infos()))
    innocent = {world.url_of(name) for name in world.logs if name not in world.suspects}
    for url in sorted(accused & innocent):
        yield f"{url} is suspect, and never contradicted itself"


def _files(world: World) -> Iterator[str]:
    """The staging table is merged and gone, and no file of a writer lies about unfinished."""
    if (world.directory / STAGING).exists():
        yield "the staging table is still there"
    left = [path.name for path in world.directory.rglob("*.tmp")]
    if left:
        yield f"temporary files are left: {left[:10]}"


def _growth(world: World) -> Iterator[str]:
    """Memory, files and threads of one run of the service stay as they are."""
    for run in sorted({sample.run for sample in world.samples}):
        samples = [sample for sample in world.samples if sample.run == run][1:]
        if len(samples) < 2:
            continue
        first, last = samples[0], samples[-1]
        if last.rss_bytes - first.rss_bytes > _MORE_BYTES:
            yield f"run {run}: memory grew from {first.rss_bytes >> 20} to {last.rss_bytes >> 20} MiB"
        if last.files - first.files > _MORE_FILES or last.threads - first.threads > _MORE_THREADS:
            yield f"run {run}: from {first.files} files and {first.threads} threads to {last.files} and {last.threads}"


def _report(world: World) -> None:
    there, committed = data_files(world.directory / MAIN), committed_files(world.directory / MAIN)
    print(f"\n{sum(log.tree_size for log in world.logs.values()):,} entries, {world.streamed:,} messages streamed")
    print(f"{len(committed)} files committed, {len(there - committed)} replaced or of a writer that was killed")
    for what, count in sorted(world.happened.items()):
        print(f"{count:6} {what}")
