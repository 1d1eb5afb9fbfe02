"""The search by chance: inputs made from seeds, checked, and those that fail made as small as they still fail."""

from __future__ import annotations

import hashlib
import signal
import time
import traceback
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from fuzz.targets import Target

SLOW_S: Final = 20  # for the inputs that are checked together; the usual ones take milliseconds
MEMORY_RATIO: Final = 200  # bytes for each byte of input, beyond what a target may take for any
_MEASURED_EVERY: Final = 200  # checks whose memory is measured: that makes them slower
_MOST_FINDINGS: Final = 20  # of one target
_SHRINK_TRIES: Final = 2_000


class OutOfProportionError(Exception):
    """An input takes more time or memory than inputs of its size do."""


@dataclass(slots=True)
class Outcome:
    """What a search found."""

    runs: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0  # of memory, by the inputs that took most, among those that were measured
    findings: dict[str, bytes] = field(default_factory=dict)  # by where it fails, the smallest input known


def search(target: Target, *, runs: int, seconds: float | None, seed: int) -> Outcome:
    """Check the seeds of a target, then `runs` inputs made from them, for that many seconds at most."""
    random, outcome, started = Random(f"{seed} {target.name}"), Outcome(), time.monotonic()
    pool = list(target.seeds())
    queue = [[each] for each in pool]
    while outcome.runs < runs and len(outcome.findings) < _MOST_FINDINGS:
        inputs = queue.pop() if queue else _inputs(target, pool, random, runs - outcome.runs)
        _check(target, inputs, outcome, measured=random.randrange(_MEASURED_EVERY) == 0)
        outcome.runs += len(inputs)
        outcome.seconds = time.monotonic() - started
        if seconds is not None and outcome.seconds >= seconds:
            break
    return outcome


def _inputs(target: Target, pool: Sequence[bytes], random: Random, left: int) -> list[bytes]:
    """As many as are checked together: mostly fewer, for what is right among many may fail among few."""
    count = min(left, target.at_once, 1 << random.randrange(8))
    return [target.mutate(random.choice(pool), random) for _ in range(count)]


def _check(target: Target, inputs: Sequence[bytes], outcome: Outcome, *, measured: bool) -> None:
    try:
        with _bounded_time():
            if measured:
                outcome.peak_bytes = max(outcome.peak_bytes, _measured(target, inputs))
            else:
                target.check(inputs)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is what is searched for
        where = _where(exc)
        if where not in outcome.findings:
            outcome.findings[where] = _smallest(target, inputs, where)


@contextmanager
def _bounded_time() -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise OutOfProportionError(f"more than {SLOW_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, SLOW_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _measured(target: Target, inputs: Sequence[bytes]) -> int:
    """Check, and say how many bytes of memory that took at most."""
    size = sum(map(len, inputs))
    tracemalloc.start()
    try:
        target.check(inputs)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak_bytes > target.memory_bytes + MEMORY_RATIO * size:
        raise OutOfProportionError(f"{peak_bytes} bytes of memory for {size}")
    return peak_bytes


def _where(exc: Exception) -> str:
    """The same for the same fault: the error, and the place in this project that it comes from."""
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if "site-packages" not in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(exc).__name__} at {place}"


def _fails(target: Target, inputs: Sequence[bytes], where: str) -> bool:
    try:
        with _bounded_time():
            target.check(inputs)
    except Exception as exc:  # noqa: BLE001 - see _check
        return _where(exc) == where
    return False


def _smallest(target: Target, inputs: Sequence[bytes], where: str) -> bytes:
    """One input that fails alone, cut down; all of them one behind the other where none does."""
    alone = next((each for each in inputs if _fails(target, [each], where)), None)
    if alone is None:
        return b"".join(inputs)
    size, tries = len(alone) // 2, 0
    while size and tries < _SHRINK_TRIES:
        at = 0
        while at < len(alone) and tries < _SHRINK_TRIES:
            shorter = alone[:at] + alone[at + size :]
            tries += 1
            if _fails(target, [shorter], where):
                alone = shorter
            else:
                at += size
        size //= 2
    return alone


def kept(directory: Path, target: Target, where: str, data: bytes) -> Path:
    """Write a finding to a file of its own; the file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{target.name}-{hashlib.sha256(f'{where}'.encode() + data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path
