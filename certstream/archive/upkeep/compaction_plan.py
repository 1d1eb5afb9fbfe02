"""What upkeep rewrites: which files of a table, and which of them together.

Two kinds of work. *Spreading* takes files of many logs, or of anybody's making, apart into files of one log each.
*Merging* joins small files of one log that continue each other, or that are many with gaps between them; in tiers, so
that a row is rewritten only a few times in its life, and everything adjacent once the partition's day is over. A file
that is dense and large, or has no neighbour, is never touched.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from certstream.archive import storage
from certstream.archive.coverage import Coverage, Covers
from certstream.archive.datafile import MIXED, is_dense
from certstream.archive.table import Snapshot, TableFile
from certstream.intervals import Intervals

TIER: Final = 8  # so many adjacent files of a size are merged; the next size begins at so many times it
FAN_IN: Final = 8  # files whose indices interleave that are merged at once
SPARSE_RUNS: Final = 16  # a log with more runs of consecutive indices than this …
SPARSE_RUN_ROWS: Final = 1024  # … that are shorter than this on average stands in one file, gaps and all

_BATCH_TARGETS: Final = 8  # a commit replaces about so many times the target's bytes
_BATCH_FILES: Final = 4096
_TIERS: Final = 4
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Rules:
    """When a file is rewritten, and how large the result should be."""

    now_s: float  # Unix s
    quiet_s: float  # younger files are left alone
    target_file_bytes: int

    @property
    def small_bytes(self) -> int:
        """Below this a dense file may be merged with others."""
        return self.target_file_bytes // 2

    @property
    def batch_bytes(self) -> int:
        """What one commit replaces, about."""
        return _BATCH_TARGETS * self.target_file_bytes

    def is_due(self, file: TableFile) -> bool:
        """Whether it is old enough, in a partition of a day."""
        return file.modified_ms <= (self.now_s - self.quiet_s) * 1000 and is_day(file.date)

    def is_closed(self, date: str) -> bool:
        """Whether that day is over, so that hardly more rows come."""
        end = datetime.fromisoformat(date).replace(tzinfo=UTC) + timedelta(days=1)
        return end.timestamp() + self.quiet_s <= self.now_s


@dataclass(frozen=True, slots=True)
class Input:
    """A file that is to be replaced."""

    file: TableFile  # without its statistics
    covers: Covers  # all that it holds
    keys: Covers  # what of it goes on; the rest, other files hold as well
    rows: int

    @property
    def is_whole(self) -> bool:
        """Whether every row of it goes on."""
        return self.rows == sum(intervals.count for intervals in self.keys.values())


@dataclass(frozen=True, slots=True)
class Job:
    """Files of one partition whose rows go together into new ones."""

    date: str
    inputs: Sequence[Input]
    merges: bool  # all hold one and the same log, in order


Batch = Sequence[Job]  # replaced by one commit


def is_day(date: str) -> bool:
    """Whether that is a partition by which this program would file rows."""
    if not _DATE.fullmatch(date):
        return False
    try:
        datetime.fromisoformat(date)
    except ValueError:
        return False
    return True


def is_sparse(keys: Intervals) -> bool:
    """Whether a log has so many gaps there that a file for each run of indices would be too many."""
    return _too_many(len(keys), keys.count)


def _too_many(runs: int, rows: int) -> bool:
    return runs > max(SPARSE_RUNS, rows // SPARSE_RUN_ROWS)


def plan(snapshot: Snapshot, coverage: Coverage, rules: Rules) -> list[Batch]:
    """What is to be rewritten of a snapshot, `coverage` being up to date with it; each file at most once."""
    spans = snapshot.dense_spans()
    doubled = _doubled(snapshot, spans, coverage)
    mixed: dict[str, list[Input]] = defaultdict(list)
    small: dict[tuple[str, str], list[Input]] = defaultdict(list)  # of one log each
    for file in snapshot.files():
        if not rules.is_due(file):
            continue
        if file.path in spans and file.path not in doubled and file.size_bytes >= rules.small_bytes:
            continue
        found = _input(file, coverage, doubled.get(file.path, {}))
        if file.path in doubled or not (file.path in spans or _is_in_order(found)):
            mixed[file.date].append(found)
        elif file.size_bytes < rules.small_bytes or _is_loose(found):
            (url,) = found.keys
            small[file.date, url].append(found)
    batches: list[Batch] = [
        [Job(date, inputs, merges=False)] for date in sorted(mixed) for inputs in _spreads(mixed[date], rules)
    ]
    batches.extend(_merge_batches(small, rules))
    return batches


def _input(file: TableFile, coverage: Coverage, doubled: Covers) -> Input:
    cover = coverage.file(file.path)
    keys = {url: intervals - doubled[url] if url in doubled else intervals for url, intervals in cover.covers.items()}
    keys = {url: intervals for url, intervals in keys.items() if len(intervals)}
    return Input(replace(file, stats={}), cover.covers, keys, cover.rows)


def _is_in_order(found: Input) -> bool:
    """Whether it is a file of one log that this program wrote."""
    name = found.file.path.rpartition("/")[2]
    ours = name.startswith(f"{MIXED}-") and storage.age_s(name) is not None
    return ours and found.is_whole and len(found.keys) == 1


def _is_loose(found: Input) -> bool:
    """Whether a file of one log is not dense, and could be."""
    return not is_dense(found.file.path) and not any(is_sparse(intervals) for intervals in found.keys.values())


def _doubled(
    snapshot: Snapshot, spans: Mapping[str, tuple[str, int, int]], coverage: Coverage
) -> dict[str, dict[str, Intervals]]:
    """By file and log the keys that another file keeps: of two files with a key the dense one, then the older one."""
    counts: Counter[str] = Counter()
    for url, start, stop in spans.values():
        counts[url] += stop - start
    for path in snapshot.paths - spans.keys():
        for url, intervals in coverage.file(path).covers.items():
            counts[url] += intervals.count
    logs = {url for url, count in counts.items() if count != coverage.of(url).count}
    if not logs:
        return {}
    doubled: dict[str, dict[str, Intervals]] = defaultdict(dict)
    kept: dict[str, Intervals] = defaultdict(Intervals)
    for _, _, path in sorted((file.path not in spans, file.modified_ms, file.path) for file in snapshot.files()):
        for url, intervals in coverage.file(path).covers.items():
            if url in logs:
                again = intervals & kept[url]
                if len(again):
                    doubled[path][url] = again
                kept[url] |= intervals
    return doubled


def _spreads(inputs: Sequence[Input], rules: Rules) -> Iterator[list[Input]]:
    """The files of a partition that are taken apart, in the order of their commits, for one commit at a time."""
    return _portions(sorted(inputs, key=lambda found: (found.file.modified_ms, found.file.path)), rules.batch_bytes)


def _portions(inputs: Iterable[Input], limit_bytes: int) -> Iterator[list[Input]]:
    """Neighbours that have about so many bytes together, less than half as many again."""
    portion: list[Input] = []
    size_bytes = 0
    for found in inputs:
        if portion and 2 * (size_bytes + found.file.size_bytes) >= 3 * limit_bytes:
            yield portion
            portion, size_bytes = [], 0
        portion.append(found)
        size_bytes += found.file.size_bytes
        if size_bytes >= limit_bytes or len(portion) >= _BATCH_FILES:
            yield portion
            portion, size_bytes = [], 0
    if portion:
        yield portion


def _merge_batches(small: Mapping[tuple[str, str], Sequence[Input]], rules: Rules) -> Iterator[Batch]:
    batch: list[Job] = []
    files = size_bytes = 0
    for date, url in sorted(small):
        for inputs in _merges(small[date, url], rules, closed=rules.is_closed(date)):
            batch.append(Job(date, inputs, merges=True))
            files += len(inputs)
            size_bytes += _size_bytes(inputs)
            if files >= _BATCH_FILES or size_bytes >= rules.batch_bytes:
                yield batch
                batch, files, size_bytes = [], 0, 0
    if batch:
        yield batch


def _merges(inputs: Iterable[Input], rules: Rules, *, closed: bool) -> Iterator[list[Input]]:
    """Which files of a log to merge now; one that is loose is rewritten even where there is no other."""
    for chain in _chains(inputs):
        loose = [found for found in chain if _is_loose(found)]
        if loose:
            yield from _parts(loose, rules)
        elif closed or _size_bytes(chain) >= rules.target_file_bytes or _fill_gaps(chain):
            yield from (part for part in _parts(chain, rules) if _gains(part))
        else:
            yield from (part for group in _tier(chain, rules) for part in _parts(group, rules) if _gains(part))


def _gains(part: Sequence[Input]) -> bool:
    """Whether files, merged, become fewer, or dense: another pass must not find the same again."""
    keys = _keys(part)
    return len(part) > 1 and (len(keys) < len(part) or is_sparse(keys) or _fill_gaps(part))


def _fill_gaps(chain: Sequence[Input]) -> bool:
    """Whether files have in their gaps what others of them hold, so that together they would have far fewer."""
    runs = sum(len(intervals) for found in chain for intervals in found.keys.values())
    return runs > len(chain) + 2 * len(_keys(chain))


def _keys(inputs: Iterable[Input]) -> Intervals:
    """The indices of files of one log."""
    return Intervals.union_of([intervals for found in inputs for intervals in found.keys.values()])


def _size_bytes(inputs: Iterable[Input]) -> int:
    return sum(found.file.size_bytes for found in inputs)


def _parts(inputs: Sequence[Input], rules: Rules) -> Iterator[list[Input]]:
    """What of a chain is merged at once: of a sparse one, so much that it becomes one file, which is sparse as well."""
    limit_bytes = rules.target_file_bytes if is_sparse(_keys(inputs)) else rules.batch_bytes
    return (part for portion in _portions(inputs, limit_bytes) for part in _shallow(portion))


def _chains(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    """Files that continue or interleave each other.

    Neighbours also with gaps between them, where a file for each run of indices would be too many: such runs stand in
    one file as they do when files of many logs are taken apart.
    """
    near: list[list[Input]] = []
    runs = rows = 0
    for chain in _unbroken(inputs):
        keys = _keys(chain)
        if near and rows + keys.count >= SPARSE_RUN_ROWS * (runs + len(keys)):
            yield from _joined(near, runs, rows)
            near, runs, rows = [], 0, 0
        near.append(chain)
        runs, rows = runs + len(keys), rows + keys.count
    yield from _joined(near, runs, rows)


def _joined(chains: list[list[Input]], runs: int, rows: int) -> list[list[Input]]:
    """The chains as one, if its runs of indices are too many for a file each."""
    return [[found for chain in chains for found in chain]] if _too_many(runs, rows) else chains


def _unbroken(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    chain: list[Input] = []
    end = -1
    for found in sorted(inputs, key=_span):
        start, stop = _span(found)
        if chain and start > end:
            yield chain
            chain, end = [], -1
        chain.append(found)
        end = max(end, stop)
    if chain:
        yield chain


def _tier(chain: Sequence[Input], rules: Rules) -> Iterator[list[Input]]:
    """The groups of at least TIER neighbours below the least size for which there are such."""
    for tier in reversed(range(_TIERS)):
        most_bytes = rules.small_bytes / TIER**tier
        groups: list[list[Input]] = [[]]
        for found in chain:
            if found.file.size_bytes <= most_bytes:
                groups[-1].append(found)
            else:
                groups.append([])
        ready = [group for group in groups if len(group) >= TIER and _gains(group)]
        if ready:
            yield from ready
            return


def _shallow(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    """Parts of a chain of whose files at most FAN_IN hold indices of the same range."""
    part: list[Input] = []
    ends: list[int] = []
    for found in inputs:
        start, stop = _span(found)
        ends = [end for end in ends if end > start]
        if len(ends) >= FAN_IN:
            yield part
            part, ends = [], []
        part.append(found)
        ends.append(stop)
    if part:
        yield part


def _span(found: Input) -> tuple[int, int]:
    """The least index of a file of one log, and one above the largest."""
    (intervals,) = found.keys.values()
    return int(intervals.start[0]), int(intervals.stop[-1])
