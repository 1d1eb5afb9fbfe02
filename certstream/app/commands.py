"""`--backfill`, `--merge`, `--maintain`, `--coverage`: what runs, says what it did, and ends with an exit code."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from certstream.app.backfill import (
    Ceiling,
    Tables,
    chosen_logs,
    fill,
    held,
    say_starting,
    survey,
    write_settings,
)
from certstream.app.coverage.reader import CoverageReader
from certstream.app.lists.log_keys import command_logs, refuse_without_keys
from certstream.app.lists.sources import follows_lists
from certstream.app.merge import MergeOutcome, merge_staging
from certstream.app.owners import refuse_as_root
from certstream.app.settings import FollowedLog, configured_logs
from certstream.app.threads import in_thread
from certstream.app.upkeep import maintained
from certstream.app.verification.command import verify_archive
from certstream.app.verification.trust import evidence_directory
from certstream.app.verification.verifying import Verifying, command_verifying, say_unverified
from certstream.archive.coverage import LookCancelledError
from certstream.archive.merge import staging as staging_tables
from certstream.archive.storage import local_path
from certstream.backfill.buffer import RunSize
from certstream.backfill.report import NOTHING, plan_table
from certstream.backfill.run import BackfillSettings
from certstream.config import Config, LoadedConfig
from certstream.ct.types import LogInfo
from certstream.errors import ConfigError
from certstream.metrics import Metrics
from certstream.progress import Progress
from certstream.signals import Signals
from certstream.state import read_anchors, read_positions

TABLE_OPTION: Final = "delta_sink.table_path"
STAGING_FLAG: Final = "--staging-path"

# Nobody else waits in this process, so as much is decoded together as memory allows
_ALONE: Final = BackfillSettings(run=RunSize(8192, 26 << 20), buffer_bytes=48 << 20)

log = structlog.get_logger(__name__)


def backfill(
    loaded: LoadedConfig, *, staging_path: str | None, start: int | None, logs: str | None, dry_run: bool
) -> int:
    """Fetch what the archive does not have; 1 where a range could not be fetched, else 0.

    `start` None catches up. With `dry_run`, print what would be fetched and end.
    Raises ConfigError, StateError or StorageError.
    """
    config = loaded.config
    tables = _tables(config, staging_path)
    _refuse_as_root(config, tables, "backfill")
    say_starting(tables, start)
    chosen, verifying = _readable_logs(config, logs)
    followed = [each.info for each in chosen]
    ceilings = _ceilings(config)
    if not any(each.base_url in ceilings for each in followed):
        log.info(NOTHING, reason="no configured log has a position in the state file", file=config.ct_log.state_file)
        if dry_run:
            print(NOTHING)
        return 0
    if dry_run:
        surveyed = survey(tables, followed, ceilings, start, threading.Event())
        print(plan_table(surveyed.plan, bytes_per_row=surveyed.bytes_per_row, free_bytes=surveyed.free_bytes), end="")
        return 0
    return _run(_backfill(config, tables, followed, ceilings, start, verifying))


def _readable_logs(config: Config, text: str | None) -> tuple[list[FollowedLog], Verifying]:
    """The logs that a command reads, of all or of those with `text` in their name or URL, and how they are verified.

    Raises ConfigError where there are none, and where one may be read only verified and its key is not known, and
    StateError where the state file, which says what of the logs' trees is known, cannot be read.
    """
    known = command_logs(config)
    infos = chosen_logs([each.info for each in known], text, "--logs")
    chosen = [each for each in known if each.info in infos]
    refuse_without_keys(chosen, config)
    say_unverified(chosen)
    modes = {each.info.base_url: each.verification for each in chosen}
    state_file = config.ct_log.state_file
    anchors = {} if state_file is None else read_anchors(Path(state_file))
    return chosen, command_verifying(modes, anchors, evidence_directory(config))


def verify(loaded: LoadedConfig, *, logs: str | None) -> int:
    """Prove what is archived and not verified, by reading it again; 1 where something of it is not, in the end.

    Raises ConfigError, StateError or StorageError.
    """
    tables = _tables(loaded.config, None)
    _refuse_as_root(loaded.config, tables, "verify")
    log.info("verify mode starting", table_path=str(tables.main))
    chosen, verifying = _readable_logs(loaded.config, logs)
    return _run(verify_archive(loaded.config, tables.main, chosen, verifying, _ALONE))


async def _backfill(
    config: Config,
    tables: Tables,
    logs: Sequence[LogInfo],
    ceilings: Mapping[str, Ceiling],
    start: int | None,
    verifying: Verifying,
) -> int:
    async with held(tables.staging):
        with Signals(hang_up_ends=True) as signals:
            try:
                surveyed = await in_thread(partial(survey, tables, logs, ceilings, start), signals.stop)
            except LookCancelledError:
                log.info("backfill interrupted", done=0)
                return 0
            progress = Progress("backfill", surveyed.plan.totals(), sys.stderr)
            result = await fill(
                config,
                surveyed,
                tables,
                signals.stop,
                metrics=Metrics(),
                verifying=verifying,
                progress=progress,
                settings=_ALONE,
            )
    return 1 if result.failed else 0


def _ceilings(config: Config) -> dict[str, Ceiling]:
    path = config.ct_log.state_file
    positions = {} if path is None else read_positions(Path(path))
    return {url: Ceiling(position.current_index, position.start_index) for url, position in positions.items()}


def _tables(config: Config, staging_path: str | None) -> Tables:
    main = local_path(config.delta_sink.table_path, TABLE_OPTION)
    if staging_path is None:
        return Tables(main, None)
    staging = local_path(staging_path, STAGING_FLAG)
    staging_tables.check_staging(main, staging)
    return Tables(main, staging)


def _refuse_as_root(config: Config, tables: Tables, work: str) -> None:
    """Raise ConfigError for root where a table, or the state of the service beside it, is another user's."""
    state = config.ct_log.state_file
    paths = [tables.main, tables.staging, None if state is None else Path(state)]
    unit = "certstream" if work in ("maintain", "coverage", "verify") else f"certstream-{work}@NAME"
    refuse_as_root((path for path in paths if path is not None), work=f"--{work}", unit=unit)


def merge(loaded: LoadedConfig, *, staging_path: str) -> int:
    """Take over into the archive what the staging table has more than it, then delete that; 1 where interrupted.

    Raises ConfigError or StorageError; staging is then as it was.
    """
    tables = _tables(loaded.config, staging_path)
    assert tables.staging is not None
    _refuse_as_root(loaded.config, tables, "merge")
    log.info("merge mode starting", staging_path=str(tables.staging), table_path=str(tables.main))
    return _run(_merge(loaded.config, tables.main, tables.staging))


async def _merge(config: Config, main: Path, staging: Path) -> int:
    with Signals(hang_up_ends=True) as signals:
        outcome = await merge_staging(main, staging, signals.stop, write_settings(config), stream=sys.stderr)
    return 1 if outcome is MergeOutcome.INTERRUPTED else 0


def maintain(loaded: LoadedConfig) -> int:
    """Do one pass of the archive's upkeep; 1 where interrupted. Raises ConfigError or StorageError."""
    tables = _tables(loaded.config, None)
    _refuse_as_root(loaded.config, tables, "maintain")
    return _run(_maintain(loaded.config, tables.main))


async def _maintain(config: Config, main: Path) -> int:
    with Signals(hang_up_ends=True) as signals:
        return 0 if await maintained(config, main, signals.stop) else 1


def coverage(loaded: LoadedConfig, *, staging_path: str | None, logs: str | None, as_json: bool) -> int:
    """Print what is archived, verified and missing of each log, or of those with `logs` in their name or URL.

    Raises ConfigError, StateError or StorageError.
    """
    config = loaded.config
    tables = _tables(config, staging_path)
    _refuse_as_root(config, tables, "coverage")
    known = command_logs(config) if follows_lists(config) else configured_logs(config)
    reader = CoverageReader(tables)
    try:
        report = reader.report([each.info for each in known], _ceilings(config))
    finally:
        reader.save()
    if reader.lacks_main():
        log.warning("archive does not exist, nothing is archived", table_path=str(tables.main))
    if reader.lacks_staging():
        log.warning("staging table does not exist, nothing is staged", staging_path=str(tables.staging))
    if logs is not None:
        report = report.only(logs)
        if not report.logs:
            raise ConfigError(f"--logs: no log that is configured or archived has {logs!r} in its name or URL")
    sys.stdout.write(report.json().decode() + "\n" if as_json else report.text())
    return 0


def _run(work: Coroutine[Any, Any, int]) -> int:
    # Entries come and go by the million and hold no circles: looking for some takes 2 % of a backfill's time
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
