"""The command line: flags → what to do → exit code. Results go to stdout, everything else to stderr.

Both ways in, `certstream` and `python -m certstream`, load this module before `main` can note signals: it loads what it
needs only then.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from certstream.starting import InterruptedStartError, Start

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from certstream.config import LoadedConfig
    from certstream.flags import Command

# Where a signal came before a command's work began: its own exit code for being interrupted
_INTERRUPTED: Final[dict[Command, int]] = {
    "backfill": 0,
    "merge": 1,
    "maintain": 1,
    "coverage": 1,
    "verify": 1,
    "list_logs": 1,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 when all went well, 1 where the operator must act."""
    with Start() as start:
        return _main(argv, start)


def _main(argv: Sequence[str] | None, start: Start) -> int:
    from certstream.errors import ConfigError, StateError, StorageError

    command: Command | None = None
    try:
        arguments = sys.argv[1:] if argv is None else argv
        if arguments and arguments[0] == "tail":
            return _tail(arguments[1:], start)
        from certstream.flags import parse_flags

        flags = parse_flags(arguments)
        command = flags.command
        if flags.healthcheck:
            return _check_health(flags)
        return _serve(flags, start) if command is None else _run_command(command, flags, start)
    except ConfigError as exc:
        for mistake in exc.mistakes:
            print(mistake, file=sys.stderr)
    except (StateError, StorageError) as exc:
        print(" ".join(str(exc).split()), file=sys.stderr)  # a store's own words may have several lines
    except SystemExit as exc:  # --help and --version
        return exc.code if isinstance(exc.code, int) else 0
    except FileNotFoundError:
        if _has_directory():
            raise
        print("certstream: the directory that this was started in is gone; start it in another one", file=sys.stderr)
    except InterruptedStartError:
        assert command is not None
        print(f"certstream: {command.replace('_', '-')} interrupted", file=sys.stderr)
        return _INTERRUPTED[command]
    return 1


def _has_directory() -> bool:
    """Whether the working directory is there, which paths of the configuration may be relative to."""
    try:
        os.getcwd()  # noqa: PTH109 -- Path.cwd() is the same call
    except FileNotFoundError:
        return False
    return True


def _tail(arguments: Sequence[str], start: Start) -> int:
    try:
        with start.interrupting():
            from certstream.tail.command import tail
            from certstream.tail.flags import parse_tail_flags

            return tail(parse_tail_flags(arguments))
    except InterruptedStartError:
        return _end_by(start.noted()[-1])


def _end_by(number: signal.Signals) -> int:
    """End as the signal would have ended the process: so a shell stops its loop, and systemd sees no failure."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    return 128 + number


def _check_health(flags: argparse.Namespace) -> int:
    from certstream.config import load_config
    from certstream.healthcheck import healthcheck

    return healthcheck(load_config(flags.config, os.environ).config)  # without logging: one line is its result


def _serve(flags: argparse.Namespace, start: Start) -> int:
    from certstream.config import effective_yaml

    loaded = _load(flags)
    if flags.validate_config:
        print(effective_yaml(loaded.config), end="")
        return 0
    from certstream.app import run  # the whole service, which checking a configuration does not need

    if start.ending is not None:
        _log().info("signal received, nothing is started", signal=start.ending.name)
        return 0
    return run(loaded, dry_run=flags.dry_run, demo=flags.demo)


def _run_command(command: Command, flags: argparse.Namespace, start: Start) -> int:
    loaded = _load(flags)
    start.check()
    if command == "list_logs":
        from certstream.app.lists.command import list_logs  # without the archive's libraries

        with start.interrupting():
            return list_logs(loaded, as_json=flags.json)
    from certstream.app.commands import backfill, coverage, maintain, merge, verify  # and the libraries of the archive

    with start.interrupting():
        if command == "backfill":
            return backfill(
                loaded, staging_path=flags.staging_path, start=flags.start, logs=flags.logs, dry_run=flags.dry_run
            )
        if command == "merge":
            return merge(loaded, staging_path=flags.staging_path)
        if command == "coverage":
            return coverage(loaded, staging_path=flags.staging_path, logs=flags.logs, as_json=flags.json)
        if command == "verify":
            return verify(loaded, logs=flags.logs)
        return maintain(loaded)


def _load(flags: argparse.Namespace) -> LoadedConfig:
    from certstream.config import load_config
    from certstream.logging_setup import setup_logging

    loaded = load_config(flags.config, os.environ)
    setup_logging(loaded.config.log_level, loaded.config.log_format)
    _report(loaded)
    return loaded


def _report(loaded: LoadedConfig) -> None:
    log = _log()
    log.info("configuration read", file=str(loaded.path) if loaded.path else None)
    if loaded.ignored:
        log.warning("options without meaning in this version", options=", ".join(loaded.ignored))
    for warning in loaded.warnings:
        log.warning("configuration", note=warning)


def _log() -> Any:
    import structlog

    return structlog.get_logger(__name__)
