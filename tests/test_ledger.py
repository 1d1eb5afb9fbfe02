"""The ledger of what is verified: durable, shared by processes, never too good."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from certstream.errors import StorageError
from certstream.intervals import Intervals
from certstream.ledger import FILE_NAME, Ledger, Trust, bounded, ledger_beside

ROOT = Path(__file__).parent.parent
URL = "https://log.example/2026h2"
OTHER = "https://other.example"
UNREADABLE = "what is verified cannot be read, so nothing counts as verified"
spans = Intervals.of


def scattered(count: int, start: int = 0) -> Intervals:
    """So many intervals of one index, two apart."""
    return Intervals.from_indices(np.arange(start, start + 2 * count, 2, dtype=np.int64))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return ledger_beside(tmp_path / "table")


def test_a_table_without_a_ledger_has_nothing_verified(path: Path) -> None:
    assert Ledger(path).read() == {}
    assert not path.parent.exists()


def test_what_was_noted_is_read_by_another_one(path: Path) -> None:
    trust = Trust(spans((0, 100), (300, 400)), spans((100, 200)), spans((7, 8)))
    Ledger(path).note({URL: trust})
    assert Ledger(path).read() == {URL: trust}


def test_notes_add_up(path: Path) -> None:
    ledger = Ledger(path)
    ledger.note({URL: Trust(spans((0, 100)))})
    ledger.note({URL: Trust(spans((100, 200)), altered=spans((5, 6))), OTHER: Trust(spans((3, 4)))})
    assert ledger.read() == {URL: Trust(spans((0, 200)), altered=spans((5, 6))), OTHER: Trust(spans((3, 4)))}


def test_what_is_verified_later_is_tainted_no_more_and_the_other_way_round(path: Path) -> None:
    ledger = Ledger(path)
    ledger.note({URL: Trust(tainted=spans((100, 300)))})
    ledger.note({URL: Trust(verified=spans((0, 200)))})
    assert ledger.read() == {URL: Trust(spans((0, 200)), spans((200, 300)))}
    ledger.note({URL: Trust(tainted=spans((50, 60)))})
    assert ledger.read() == {URL: Trust(spans((0, 50), (60, 200)), spans((50, 60), (200, 300)))}


def test_what_is_found_both_at_once_is_tainted(path: Path) -> None:
    Ledger(path).note({URL: Trust(verified=spans((0, 100)), tainted=spans((50, 60)))})
    assert Ledger(path).read() == {URL: Trust(spans((0, 50), (60, 100)), spans((50, 60)))}


def test_nothing_found_writes_nothing(path: Path) -> None:
    Ledger(path).note({URL: Trust()})
    assert not path.parent.exists()


def test_rows_that_are_gone_are_forgotten(path: Path) -> None:
    ledger = Ledger(path)
    ledger.forget({URL: spans((0, 10))})
    assert not path.parent.exists()
    ledger.note({URL: Trust(spans((0, 100)), spans((100, 110)), spans((5, 6)))})
    ledger.forget({URL: spans((0, 50), (105, 200)), OTHER: spans((0, 9))})
    assert Ledger(path).read() == {URL: Trust(spans((50, 100)), spans((100, 105)))}
    ledger.forget({URL: spans((0, 1000))})
    assert Ledger(path).read() == {}


def test_rows_that_come_anew_are_not_those_of_which_something_was_known(path: Path) -> None:
    ledger = Ledger(path)
    ledger.note({}, fresh={URL: spans((0, 10))})
    assert not path.parent.exists()
    ledger.note({URL: Trust(spans((0, 100)), altered=spans((5, 6)))}, fresh={URL: spans((0, 100))})
    ledger.note({URL: Trust(spans((0, 4)), spans((8, 10)))}, fresh={URL: spans((0, 10))})
    assert Ledger(path).read() == {URL: Trust(spans((0, 4), (10, 100)), spans((8, 10)))}
    ledger.note({}, fresh={URL: spans((50, 100)), OTHER: spans((0, 5))})
    assert Ledger(path).read() == {URL: Trust(spans((0, 4), (10, 50)), spans((8, 10)))}


def test_what_is_known_already_is_not_written_again(path: Path) -> None:
    ledger = Ledger(path)
    ledger.note({URL: Trust(spans((0, 10)))})
    before = path.stat()
    ledger.note({URL: Trust(spans((2, 5)))})
    ledger.forget({OTHER: spans((0, 10))})
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_change_by_another_process_is_seen_though_the_file_is_as_long_as_before(path: Path, tmp_path: Path) -> None:
    ledger = Ledger(path)
    ledger.note({URL: Trust(spans((10, 11)))})
    ledger.read()
    for start in range(12, 99):
        other = tmp_path / f"{start}.json"
        Ledger(other).note({URL: Trust(spans((start, start + 1)))})
        if other.stat().st_size == path.stat().st_size:
            break
    other.rename(path)
    assert ledger.read() == {URL: Trust(spans((start, start + 1)))}


def test_a_change_by_another_process_is_seen(path: Path) -> None:
    ledger = Ledger(path)
    ledger.note({URL: Trust(spans((0, 1)))})
    Ledger(path).note({URL: Trust(spans((1, 2)))})
    assert ledger.read() == {URL: Trust(spans((0, 2)))}
    path.unlink()
    assert ledger.read() == {}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "unexpected end"),
        (b"\x00" * 100, "unexpected character"),
        (b"[]", "not a record"),
        (b'{"version": 2, "logs": {}}', "has version 2"),
        (b'{"version": 1, "crc32": 0, "logs": {"https://log.example": {"verified": [[0, 5]]}}}', "checksum"),
        (b'{"version": 1, "crc32": 2745614147, "logs": []}', "checksum|not a record"),
    ],
)
def test_an_unreadable_file_is_said_and_kept_aside_and_nothing_is_verified(
    path: Path, content: bytes, error: str
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with capture_logs() as logs:
        assert Ledger(path).read() == {}
    ((kept,), (line,)) = list(path.parent.glob(f"{FILE_NAME}.unreadable-*")), logs
    assert kept.read_bytes() == content
    assert not path.exists()
    assert (line["event"], line["log_level"], line["kept"]) == (UNREADABLE, "warning", str(kept))
    Ledger(path).note({URL: Trust(spans((0, 1)))})
    assert Ledger(path).read() == {URL: Trust(spans((0, 1)))}
    assert kept.read_bytes() == content


def test_every_bit_that_flips_is_noticed(path: Path) -> None:
    known = {URL: Trust(spans((0, 100), (300, 400)), spans((100, 200)))}
    Ledger(path).note(known)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with capture_logs():
            assert Ledger(path).read() in ({}, known), place


def test_what_only_has_the_right_checksum_is_no_ledger(path: Path) -> None:
    path.parent.mkdir(parents=True)
    for wrong in ([[0, 1.5]], [[0, 1 << 63]], [[-1, 5]], [0, 1], [[0, 1, 2]], [["0", "1"]], "text", None):
        logs = {URL: {"verified": wrong}}
        check = zlib.crc32(orjson.dumps(logs))
        path.write_bytes(orjson.dumps({"version": 1, "crc32": check, "logs": logs}))
        with capture_logs() as lines:
            assert Ledger(path).read() == {}, wrong
        assert [line["event"] for line in lines] == [UNREADABLE]


def test_a_file_that_may_not_be_read_is_left_alone_and_nothing_is_noted(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.mkdir()  # reading a directory fails, as a file without permission does
    with capture_logs() as logs:
        assert Ledger(path).read() == {}
    assert [line["event"] for line in logs] == [UNREADABLE]
    with pytest.raises(StorageError, match=FILE_NAME):
        Ledger(path).note({URL: Trust(spans((0, 1)))})
    assert path.is_dir()


def test_rows_that_come_anew_beside_a_file_that_may_not_be_read_are_told_again_later(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match=FILE_NAME):
        Ledger(path).note({}, fresh={URL: spans((0, 10))})
    path.rmdir()
    path.write_bytes(b"no ledger")
    Ledger(path).note({}, fresh={URL: spans((0, 10))})  # of which nothing is known


def test_rows_are_not_taken_for_forgotten_where_their_ledger_cannot_be_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(path)
    ledger.note({URL: Trust(spans((0, 100)))})

    def failing(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", failing)
        with pytest.raises(StorageError, match="Input/output error"):
            ledger.note({}, fresh={URL: spans((0, 10))})
        with pytest.raises(StorageError, match="Input/output error"):
            ledger.forget({URL: spans((0, 10))})
    assert Ledger(path).read() == {URL: Trust(spans((0, 100)))}


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("a file where the directory would be")
    with pytest.raises(StorageError):
        Ledger(ledger_beside(tmp_path / "table")).note({URL: Trust(spans((0, 1)))})
    with capture_logs():
        assert Ledger(ledger_beside(tmp_path / "table")).read() == {}


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="looks for a file system that is always read-only")
def test_a_read_only_disk_is_a_storage_error() -> None:
    with pytest.raises(StorageError):
        Ledger(Path("/proc/sys/kernel") / FILE_NAME).note({URL: Trust(spans((0, 1)))})


def test_one_that_holds_the_lock_is_waited_for(path: Path) -> None:
    other = Ledger(path)
    waits: list[float] = []

    def let_go_after(step_s: float) -> None:
        waits.append(step_s)
        if len(waits) == 3:
            held.__exit__(None, None, None)

    path.parent.mkdir(parents=True)
    held = other._locked()
    held.__enter__()
    Ledger(path, sleep=let_go_after).note({URL: Trust(spans((0, 1)))})
    assert len(waits) == 3
    assert other.read() == {URL: Trust(spans((0, 1)))}


def test_one_that_never_lets_go_is_a_storage_error(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with (
        Ledger(path)._locked(),
        pytest.raises(StorageError, match=f"in use by process {os.getpid()} "),
    ):
        Ledger(path, sleep=lambda _s: None, lock_wait_s=1).note({URL: Trust(spans((0, 1)))})
    assert Ledger(path).read() == {}


def test_one_that_never_lets_go_is_waited_for_a_second_by_who_is_to_end(path: Path) -> None:
    path.parent.mkdir(parents=True)
    slept: list[float] = []
    ledger = Ledger(path, sleep=slept.append, ending=lambda: sum(slept) >= 0.5)
    with Ledger(path)._locked(), pytest.raises(StorageError, match="in use by process"):
        ledger.note({URL: Trust(spans((0, 1)))})
    assert sum(slept) == pytest.approx(1, abs=0.1)


_NOTE = """
import sys
import zlib
from pathlib import Path
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust
path, start, count, step = sys.argv[1], *map(int, sys.argv[2:])
ledger = Ledger(Path(path))
print("begun", flush=True)
for number in range(count):
    at = start + number * step
    ledger.note({"https://log.example/2026h2": Trust(Intervals.of((at, at + 1)))})
    print(at, flush=True)
"""


def noting(path: Path, start: int, count: int, step: int = 2) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", _NOTE, str(path), str(start), str(count), str(step)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_processes_that_write_at_the_same_time_lose_nothing_of_each_other(path: Path) -> None:
    processes = [noting(path, number * 10_000, 60) for number in range(4)]
    assert [process.communicate() and process.returncode for process in processes] == [0] * 4
    expected = Intervals.union_of(scattered(60, number * 10_000) for number in range(4))
    assert Ledger(path).read() == {URL: Trust(expected)}


def test_a_process_killed_while_it_writes_loses_nothing_that_was_noted(path: Path) -> None:
    noted: list[int] = []
    for attempt in range(5):
        with noting(path, attempt * 100_000, 10_000) as process:
            assert process.stdout is not None
            for _ in range(8 + attempt):
                line = process.stdout.readline().strip()
                noted += [int(line)] if line.isdigit() else []
            process.kill()
    known = Ledger(path).read()[URL].verified
    assert known.contains(np.array(noted)).all()
    Ledger(path).note({OTHER: Trust(spans((0, 1)))})  # neither lock nor file stands in the way
    assert {name.name for name in path.parent.iterdir()} == {FILE_NAME, f"{FILE_NAME}.lock"}


def test_past_the_bound_each_log_gets_less_exact_and_never_too_good() -> None:
    little = Trust(spans((0, 5), (10, 20)), spans((5, 6)))
    tainted = Intervals.of((1, 2), (1_000, 1_001), (1_010, 1_011), (5_000, 5_001))
    with capture_logs() as logs:
        kept = bounded({URL: Trust(scattered(500), altered=scattered(50)), OTHER: little}, 40)
        joined = bounded({URL: Trust(spans((0, 1), (1_001, 1_005), (2_000, 5_000)), tainted)}, 6)
    assert kept[OTHER] == little
    assert sum(map(len, (kept[URL].verified, kept[URL].altered))) <= 40
    assert len(kept[URL].verified - scattered(500)) == 0
    assert kept[URL].altered.end == scattered(50).end
    assert len(tainted - joined[URL].tainted) == 0
    assert joined[URL] == Trust(spans((2_000, 5_000)), spans((1, 1_011), (5_000, 5_001)))
    assert [line["log_level"] for line in logs] == ["warning", "warning"]


def test_the_longest_ranges_are_the_last_to_be_forgotten() -> None:
    with capture_logs():
        kept = bounded({URL: Trust(scattered(100) | spans((10_000, 20_000), (30_000, 30_002)))}, 2)
    assert kept == {URL: Trust(spans((10_000, 20_000), (30_000, 30_002)))}


def test_many_logs_past_the_bound_keep_two_ranges_each() -> None:
    many = {f"{URL}/{number}": Trust(scattered(5) | spans((50, 60), (70, 80)), spans((90, 91))) for number in range(10)}
    with capture_logs():
        kept = bounded(many, 6)
    assert kept == dict.fromkeys(many, Trust(spans((50, 60), (70, 80)), spans((90, 91))))


def test_a_full_ledger_is_written_and_read_in_time_and_room(path: Path) -> None:
    Ledger(path).note({URL: Trust(scattered(60_000)), OTHER: Trust(tainted=scattered(40_000))})
    assert path.stat().st_size < 4 << 20
    assert Ledger(path).read() == {URL: Trust(scattered(60_000)), OTHER: Trust(tainted=scattered(40_000))}


def test_the_documented_file_is_a_ledger(path: Path) -> None:
    page = (ROOT / "docs" / "archive-contract.md").read_text()
    path.parent.mkdir(parents=True)
    path.write_text(page[page.index("### trust.json") :].split("```json\n")[1].split("```")[0].strip())
    assert Ledger(path).read() == {URL: Trust(spans((0, 4_000)), spans((4_000, 4_100)), spans((17, 18)))}


index_sets = st.frozensets(st.integers(0, 40)).map(
    lambda some: Intervals.from_indices(np.array(sorted(some), np.int64))
)
trusts = st.builds(Trust, index_sets, index_sets, index_sets)


@given(st.lists(trusts, max_size=5))
def test_nothing_is_both_verified_and_tainted_whatever_is_found(found: list[Trust]) -> None:
    known = Trust()
    for trust in found:
        known = known.and_then(trust)
        assert known.verified & known.tainted == Intervals()
        assert trust.tainted - known.tainted == Intervals()
        assert (trust.verified - trust.tainted) - known.verified == Intervals()


@given(st.dictionaries(st.sampled_from("abc"), trusts), st.integers(6, 30))
def test_a_bound_never_adds_to_what_is_verified_nor_takes_from_what_is_tainted(
    logs: dict[str, Trust], most: int
) -> None:
    consistent = {url: Trust().and_then(trust) for url, trust in logs.items()}
    with capture_logs():
        kept = bounded(consistent, most)
    for url, trust in consistent.items():
        assert kept[url].verified - trust.verified == Intervals()
        assert trust.tainted - kept[url].tainted == Intervals()
        assert kept[url].altered - trust.altered == Intervals()
        assert kept[url].verified & kept[url].tainted == Intervals()
