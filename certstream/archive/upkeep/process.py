"""Upkeep in a process of its own, niced to 19: what archives at the same time does not notice.

The parent sends one line of JSON, and holds the child's stdin open: the child ends when that does, however the parent
ended. The child answers in lines of JSON: {"log": …} any number of times, then {"result": …} or {"error": …}.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pyarrow as pa
import structlog
from structlog.typing import EventDict, WrappedLogger

from certstream.archive.commit import Committer
from certstream.archive.datafile import WriteSettings
from certstream.archive.upkeep.upkeep import Upkeep, UpkeepResult, UpkeepSettings
from certstream.errors import StorageError

_NAME: Final = "certstream-upkeep"  # only for people who list processes, as the table's path behind it
# As multiprocessing does it: modules come from where the parent has its own, whatever the working directory is
_START: Final = (
    "import json, sys; line = sys.stdin.readline(); line.endswith('\\n') or sys.exit(1); "  # the parent is gone
    "order = json.loads(line); sys.path[:] = order['sys_path']; "
    "from certstream.archive.upkeep.process import main; main(order)"
)
_NICE: Final = 19
_GRACE_S: Final = 2.0  # for a child that was told to end to remove what it has not committed
_KILL_S: Final = 4.0  # after which its parent does not wait any longer
_LINE_BYTES: Final = 1 << 20

log = structlog.get_logger(__name__)


async def run_upkeep(root: Path, settings: UpkeepSettings, *, write: WriteSettings) -> UpkeepResult:
    """Do one pass of upkeep in a process of its own, whose log lines become ours; cancelling it ends the process.

    Raises StorageError with what the process said, or how it ended.
    """
    order = {"sys_path": _sys_path(), "root": str(root), "settings": asdict(settings), "write": asdict(write)}
    process = await _started(root)
    assert process.stdin is not None
    try:
        with suppress(ConnectionError):  # it ended at once, which is told below
            process.stdin.write(json.dumps(order).encode() + b"\n")
            await process.stdin.drain()
        return await _outcome(process, root)
    except BaseException:
        with suppress(ProcessLookupError):
            process.terminate()
        raise
    finally:
        process.stdin.close()
        await _end(process)


async def _started(root: Path) -> asyncio.subprocess.Process:
    try:
        # In our session: the kernel weighs nice values only within one ("autogroup")
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _START, _NAME, str(root)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            env=_environment(),
        )
    except OSError as exc:
        raise StorageError(f"{root}: the process for upkeep cannot be started: {exc.strerror}") from exc


def _environment() -> dict[str, str]:
    """Ours, with the allocator that gives back what is free: a tenth less is resident."""
    pool = {"ARROW_DEFAULT_MEMORY_POOL": "jemalloc"} if "jemalloc" in pa.supported_memory_backends() else {}
    return pool | os.environ


def _sys_path() -> list[str]:
    here = str(Path(__file__).parents[3])
    return [path or here for path in sys.path]


async def _outcome(process: asyncio.subprocess.Process, root: Path) -> UpkeepResult:
    assert process.stdout is not None
    async for line in process.stdout:
        if not line.endswith(b"\n"):
            break  # it was killed in the middle of it
        answer = json.loads(line)
        if "log" in answer:
            _log(**answer["log"])
        elif "result" in answer:
            return UpkeepResult(**answer["result"])
        else:
            raise StorageError(answer["error"]["message"], kind=answer["error"]["kind"])
    code = await process.wait()
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    raise StorageError(f"{root}: the process for upkeep ended without a result ({how})")


def _log(*, level: str, event: str, **fields: Any) -> None:
    """Log what the child logged."""
    log.log(logging.getLevelNamesMapping()[level.upper()], event, **fields)


async def _end(process: asyncio.subprocess.Process) -> None:
    """See the process end, by force if it must be."""
    try:
        async with asyncio.timeout(_KILL_S):
            await process.wait()
    except BaseException as exc:
        with suppress(ProcessLookupError):
            process.kill()
        if not isinstance(exc, TimeoutError):
            raise
        await process.wait()


def main(order: dict[str, Any]) -> None:
    """Be the child: do what the parent's line says, answer, and leave."""
    os.nice(_NICE)
    pa.set_cpu_count(1)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, _log_line],
        logger_factory=structlog.PrintLoggerFactory(answers),
    )
    cancelled, woken, answered = threading.Event(), threading.Event(), threading.Event()

    def end(_number: int = 0, _frame: FrameType | None = None) -> None:
        cancelled.set()
        woken.set()

    def work() -> None:
        try:
            with suppress(BrokenPipeError):  # the parent is gone, also where it was a log line that said so
                answers.write(json.dumps(_answer(order, cancelled)) + "\n")
                answered.set()
        finally:
            woken.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a word to the service, not to us
    worker = threading.Thread(target=work, name="upkeep", daemon=True)
    worker.start()
    threading.Thread(target=_watch_parent, args=(end,), name="parent", daemon=True).start()
    woken.wait()
    worker.join(_GRACE_S if cancelled.is_set() else None)
    os._exit(0 if answered.is_set() else 1)  # not by way of the interpreter's end, with threads at work


def _answer(order: dict[str, Any], cancelled: threading.Event) -> dict[str, Any]:
    committer = Committer(Path(order["root"]), settings=WriteSettings(**order["write"]))
    try:
        return {"result": asdict(Upkeep(committer, UpkeepSettings(**order["settings"])).run(cancelled))}
    except StorageError as exc:
        return {"error": {"kind": exc.kind, "message": str(exc)}}
    except BaseException as exc:  # a panic inside a library is no Exception
        log.exception("maintenance crashed")
        message = f"{committer.root}: upkeep crashed: {type(exc).__name__}: {exc}"
        return {"error": {"kind": "storage", "message": message}}


def _watch_parent(end: Callable[[], None]) -> None:
    """Call `end` when the parent is gone."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    end()


def _log_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return json.dumps({"log": event}, default=str)
