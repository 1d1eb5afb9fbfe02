"""The flags of the command line: which there are, and which go together."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeAlias, get_args

from certstream import __version__
from certstream.config.archive import checked_table_path
from certstream.errors import ConfigError

Command: TypeAlias = Literal["backfill", "merge", "maintain", "coverage", "verify", "list_logs"]
COMMANDS: Final[tuple[Command, ...]] = get_args(Command)

_MODES: Final = (*COMMANDS, "demo", "validate_config", "healthcheck")  # at most one of them; none is the service
# Flags that mean something with these commands alone, by their names as attributes
_GO_WITH: Final[dict[str, tuple[str, ...]]] = {
    "--from": ("backfill",),
    "--logs": ("backfill", "coverage", "verify"),
    "--staging-path": ("backfill", "merge", "coverage"),
    "--json": ("coverage", "list_logs"),
}
_MERGE_NEEDS_STAGING: Final = "Error: --merge requires --staging-path <PATH>"
_LAST_INDEX: Final = (1 << 63) - 1  # an archived index is a signed 64-bit integer

_EPILOG: Final = """\
examples:
  certstream
      follow the logs and serve them; archive them too, if delta_sink is on
  certstream --demo
      the same with two simulated logs
  certstream --backfill --dry-run
      show what the archive does not have yet, and fetch nothing
  certstream --backfill --staging-path ./data/staging
      fetch that into a table of its own
  certstream --merge --staging-path ./data/staging
      take that table over into the archive, and delete it
  certstream --backfill --from 0 --logs argon2026h2
      fetch all that is missing of some logs, straight into the archive
  certstream --maintain
      rewrite the small files of the archive, and delete what is out of date
  certstream --coverage
      show what is archived of each log, what is verified, what is missing
  certstream --verify
      read again what is archived and not verified, prove and compare it

`certstream tail` follows a stream in the terminal: see certstream tail --help.

Options come from the file; CERTSTREAM_* variables go before it. config.yaml
names them all.

exit codes: 0 done, or a backfill was interrupted, and the next one goes on;
1 the operator must act, as stderr says, or --merge, --maintain or --verify
was interrupted; 130 and 143 a second Ctrl+C or SIGTERM, which leaves at once"""


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags, by default of this process; `command` among them is what to run instead of the service, or None.

    Raises ConfigError for a mistake, SystemExit after --help and --version.
    """
    parser = _parser()
    flags = parser.parse_args(argv)
    _check(parser, flags)
    flags.command = next((name for name in COMMANDS if getattr(flags, name)), None)
    return flags


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake in the flags is a ConfigError: exit 1 and one line, instead of exit 2 and the usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="certstream",
        description="Certificate Transparency logs as a live WebSocket and SSE stream, and as a Delta table.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=_path,
        metavar="PATH",
        help="the configuration file (default: CERTSTREAM_CONFIG, else config.yaml, config.yml or "
        "/etc/certstream/config.yaml where there is one)",
    )
    parser.add_argument("--demo", action="store_true", help="stream two simulated logs; needs no network")
    parser.add_argument(
        "--validate-config",
        action="store_true",
        help="check the configuration and print what is in effect, secrets masked; start nothing",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="serve, but connect to no log; with --backfill: print what it would fetch, and end",
    )
    parser.add_argument(
        "--healthcheck",
        action="store_true",
        help="ask the service that runs with this configuration whether it is alive; exit 0 or 1",
    )
    parser.add_argument(
        "--list-logs",
        action="store_true",
        help="print which logs are followed, from which list and in which state, and why others are not; with --json "
        "all of it, for programs",
    )
    parser.add_argument("--version", action="version", version=f"certstream-server {__version__}")
    _add_archive_flags(parser)
    return parser


def _add_archive_flags(parser: _Parser) -> None:
    group = parser.add_argument_group("archive", "commands that end when they are done; a service may run meanwhile")
    group.add_argument("--backfill", action="store_true", help="fetch the entries that delta_sink.table_path misses")
    group.add_argument(
        "--merge", action="store_true", help="take over what the archive misses from --staging-path, then delete that"
    )
    group.add_argument("--maintain", action="store_true", help="do one pass of the archive's upkeep now")
    group.add_argument(
        "--coverage",
        action="store_true",
        help="print what is archived, verified and missing of each log; writes nothing into the archive",
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="prove what is archived and not verified by reading its logs again; writes no row",
    )
    group.add_argument(
        "--staging-path",
        type=_table_path,
        metavar="PATH",
        help="a table beside the archive: --backfill fetches into it, --merge takes it over, --coverage counts it in",
    )
    group.add_argument(
        "--from",
        type=_index,
        dest="start",
        metavar="N",
        help="with --backfill: all that is missing from index N on (default: from where a log's archive begins)",
    )
    group.add_argument(
        "--logs",
        type=_text,
        metavar="TEXT",
        help="with --backfill, --coverage and --verify: only logs with TEXT in their name or URL",
    )
    group.add_argument("--json", action="store_true", help="with --coverage and --list-logs: all of it, for programs")


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("needs the path of a file")
    return Path(text)


def _table_path(text: str) -> str:
    try:
        return checked_table_path(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _index(text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text) or int(text) > _LAST_INDEX:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to {_LAST_INDEX}")
    return int(text)


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a part of a log's name or URL")
    return text


def _check(parser: _Parser, flags: argparse.Namespace) -> None:
    """Refuse flags that do not go together; ConfigError."""
    modes = [f"--{mode.replace('_', '-')}" for mode in _MODES if getattr(flags, mode)]
    if len(modes) > 1:
        parser.error(f"{' and '.join(modes)} do not go together")
    given = {
        "--from": flags.start is not None,
        "--logs": flags.logs is not None,
        "--staging-path": flags.staging_path is not None,
        "--json": flags.json,
    }
    for name, commands in _GO_WITH.items():
        if given[name] and not any(getattr(flags, command) for command in commands):
            needed = " or ".join(f"--{command.replace('_', '-')}" for command in commands)
            parser.error(f"{name} needs {needed}")
    if flags.dry_run and modes not in ([], ["--backfill"], ["--demo"], ["--validate-config"]):
        parser.error(f"--dry-run does not go with {modes[0]}")
    if flags.merge and flags.staging_path is None:
        raise ConfigError(_MERGE_NEEDS_STAGING)
