"""The process that does upkeep: niced, told what to do by its parent, never outliving it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq
import pytest
import structlog
from deltalake import write_deltalake

from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings
from certstream.archive.upkeep import process as upkeep_process
from certstream.archive.upkeep.process import run_upkeep
from certstream.archive.upkeep.upkeep import UpkeepResult, UpkeepSettings
from certstream.errors import StorageError
from certstream.locks import FileLock
from tests.archive.archive_support import committed_files, data_files, held, rows, url
from tests.archive.upkeep_support import OPEN, B, contents, fill_mixed, flush, spans, upkeep

ROOT: Final = Path(__file__).parents[2]
NOW: Final = UpkeepSettings(quiet_s=0)
LOGS: Final = 8
_WAIT_S: Final = 20  # for what takes a moment

# A service that does nothing but start upkeep; it says when its child is there
_PARENT = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from certstream.archive.datafile import WriteSettings
from certstream.archive.upkeep.upkeep import UpkeepSettings
from certstream.archive.upkeep.process import run_upkeep

async def main():
    work = asyncio.create_task(run_upkeep(Path(sys.argv[2]), UpkeepSettings(quiet_s=0), write=WriteSettings()))
    while not work.done() and not open(f"/proc/self/task/{os.getpid()}/children").read():
        await asyncio.sleep(0.001)
    print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
    print(await work, flush=True)

asyncio.run(main())
"""


async def run(root: Path, settings: UpkeepSettings = NOW) -> UpkeepResult:
    return await run_upkeep(root, settings, write=WriteSettings())


def children() -> list[int]:
    """The processes that this one started and that are not gone."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # threads end
            found += map(int, (task / "children").read_text().split())
    return found


async def child_of(work: asyncio.Task[UpkeepResult], before: list[int]) -> int:
    """The process that `work` started; fails where that ends without one."""
    while not work.done():
        fresh = set(children()) - set(before)
        if fresh:
            return fresh.pop()
        await asyncio.sleep(0.001)
    raise AssertionError(f"no process was seen before {work.result()}")


def is_gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pid: int) -> None:
    give_up = time.monotonic() + _WAIT_S
    while not is_gone(pid):
        assert time.monotonic() < give_up, "it outlives its parent"
        time.sleep(0.01)


def wait_for_files(root: Path, count: int, pid: int) -> None:
    """Until a process has begun so many files, or has ended."""
    while len(data_files(root)) < count and not is_gone(pid):
        time.sleep(0.001)


@contextmanager
def parent(root: Path, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A service in a process of its own that does upkeep."""
    arguments = [sys.executable, "-c", _PARENT, str(ROOT), str(root)]
    with subprocess.Popen(
        arguments, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_the_process_does_a_pass_and_its_log_lines_are_ours(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=4, logs=3, rows_each=10)
    before = contents(tmp_path)
    with structlog.testing.capture_logs() as lines:
        assert await run(tmp_path) == UpkeepResult(files_rewritten=4, files_written=3, rows=120)
    assert {"event": "files rewritten", "log_level": "info", "files": 4, "into": 3, "rows": 120} in lines
    assert contents(tmp_path) == before
    assert spans(tmp_path) == {url(log): [(0, 40)] for log in range(3)}


async def test_the_process_writes_as_it_is_told(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=4, logs=1, rows_each=10)
    flush(tmp_path, rows(url(0), range(40, 50), date=OPEN), rows(B, range(5), date=OPEN))
    settings = UpkeepSettings(quiet_s=0, target_file_bytes=1 << 20, retention_hours=0, keep_days=400)
    await run_upkeep(tmp_path, settings, write=WriteSettings(row_group_rows=4))
    assert data_files(tmp_path) == committed_files(tmp_path)
    groups = {pq.ParquetFile(tmp_path / path).metadata.num_row_groups for path in data_files(tmp_path)}
    assert max(groups) >= 2


async def test_the_process_runs_at_the_lowest_priority(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=20, logs=5, rows_each=5)
    before = children()
    work = asyncio.create_task(run(tmp_path))
    pid = await child_of(work, before)
    seen = set()
    while not work.done() and 19 not in seen:
        seen.add(os.getpriority(os.PRIO_PROCESS, pid))
        await asyncio.sleep(0.001)
    await work
    assert 19 in seen


async def test_a_failure_in_the_process_is_raised_here(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=5)
    lock = tmp_path / "_certstream" / "maintenance.lock"
    with (
        FileLock(lock, subject=lock, error=StorageError),
        pytest.raises(StorageError, match=f"in use by process {os.getpid()} ") as caught,
    ):
        await run(tmp_path)
    assert caught.value.kind == "storage"
    (tmp_path / "_delta_log" / f"{1:020}.json").write_text("no json")
    with pytest.raises(StorageError, match="_delta_log"):
        await run(tmp_path)


async def test_a_table_with_other_columns_is_said_to_be_one(tmp_path: Path) -> None:
    write_deltalake(tmp_path, rows(B, range(3)).drop_columns(["chain"]))
    with pytest.raises(StorageError, match="chain is missing") as caught:
        await run(tmp_path)
    assert caught.value.kind == "schema"


async def test_a_mistake_in_the_process_is_said_with_its_trace(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=5)
    wrong = UpkeepSettings(quiet_s="soon")  # type: ignore[arg-type]
    with (
        structlog.testing.capture_logs() as lines,
        pytest.raises(StorageError, match=f"{tmp_path}: upkeep crashed: TypeError: "),
    ):
        await run(tmp_path, wrong)
    (line,) = (line for line in lines if line["event"] == "maintenance crashed")
    assert line["log_level"] == "error"
    assert "Traceback" in line["exception"]


async def test_how_a_process_ended_that_said_nothing_is_said(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=2, logs=2, rows_each=5)
    before = children()
    work = asyncio.create_task(run(tmp_path))
    os.kill(await child_of(work, before), signal.SIGKILL)
    with pytest.raises(StorageError, match=r"ended without a result \(signal 9\)"):
        await work
    assert (await run(tmp_path)).files_rewritten == 2


@pytest.mark.parametrize("files", [0, 1, 5])
async def test_cancelling_ends_the_process_soon_and_leaves_no_file(tmp_path: Path, files: int) -> None:
    fill_mixed(tmp_path, files=50, logs=LOGS, rows_each=2)
    wanted, known, before = held(tmp_path), data_files(tmp_path), children()
    work = asyncio.create_task(run(tmp_path))
    pid = await child_of(work, before)
    await asyncio.to_thread(wait_for_files, tmp_path, len(known) + files, pid)
    began = time.monotonic()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert time.monotonic() - began < 4
    assert is_gone(pid)
    assert held(tmp_path) == wanted
    assert data_files(tmp_path) - known == committed_files(tmp_path) - known
    upkeep(tmp_path)  # the lock is free


def test_it_needs_neither_the_working_directory_nor_a_terminal(tmp_path: Path) -> None:
    table, elsewhere = tmp_path / "table", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("json.py", "certstream.py", "pyarrow.py"):
        (elsewhere / name).write_text("raise SystemExit('not this one')")
    fill_mixed(table, files=2, logs=2, rows_each=5)
    with parent(table, Path("/")) as process:
        output, errors = process.communicate(timeout=_WAIT_S)
    assert "files_rewritten=2" in output, errors
    fill_mixed(table, files=4, logs=2, rows_each=5)
    code = _PARENT.replace("import asyncio, os, sys", "import sys; sys.path[:] = sys.path[1:]; import asyncio, os", 1)
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(table)],
        cwd=elsewhere, capture_output=True, text=True, check=False, timeout=_WAIT_S,
    )  # fmt: skip
    assert "files_rewritten=2" in done.stdout, done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_parent_however_that_ends(tmp_path: Path, how: signal.Signals) -> None:
    table = tmp_path / "table"
    fill_mixed(table, files=50, logs=LOGS, rows_each=2)
    before = committed_files(table)
    with parent(table, tmp_path) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(how)
        _, errors = process.communicate(timeout=_WAIT_S)  # of both, once both are gone
        wait_until_gone(pid)
    assert errors == ""
    assert committed_files(table) == before == data_files(table)


async def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_mixed(tmp_path, files=1, logs=1, rows_each=5)
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    monkeypatch.setattr(upkeep_process, "_START", code)
    monkeypatch.setattr(upkeep_process, "_KILL_S", 0.5)
    before = children()
    work = asyncio.create_task(run(tmp_path))
    pid = await child_of(work, before)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert is_gone(pid)


async def test_half_a_line_of_a_process_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_process, "_START", """print('{"result": {', end="")""")
    with pytest.raises(StorageError, match=r"ended without a result \(exit code 0\)"):
        await run(tmp_path)


def test_killed_in_the_middle_a_clean_pass_makes_everything_good(tmp_path: Path) -> None:
    fill_mixed(tmp_path, files=50, logs=LOGS, rows_each=2)
    wanted = contents(tmp_path)
    for files in (1, LOGS):
        with parent(tmp_path, ROOT) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            wait_for_files(tmp_path, len(data_files(tmp_path)) + files, pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            process.communicate(timeout=_WAIT_S)
        assert contents(tmp_path) == wanted
    upkeep(tmp_path)
    assert contents(tmp_path) == wanted
    assert spans(tmp_path) == {url(log): [(0, 100)] for log in range(LOGS)}
    upkeep(tmp_path, retention_hours=0)
    assert data_files(tmp_path) == committed_files(tmp_path)
    assert Committer(tmp_path).look().transaction("certstream.commit")
