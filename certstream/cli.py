"""The command line: flags → what to do → exit code. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import structlog

from certstream import __version__
from certstream.config import LoadedConfig, effective_yaml, load_config
from certstream.errors import ConfigError, StateError
from certstream.logging_setup import setup_logging

log = structlog.get_logger(__name__)


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake in the flags is a ConfigError: exit 1 and one line, instead of exit 2 and the usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="certstream",
        description="Certificate Transparency logs as a live WebSocket and SSE stream.",
        epilog="Options come from the file; CERTSTREAM_* variables go before it. config.yaml names them all.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=_path,
        metavar="PATH",
        help="the configuration file (default: CERTSTREAM_CONFIG, else config.yaml, config.yml or "
        "/etc/certstream/config.yaml where there is one)",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="stream two simulated logs; needs no network, keeps nothing",
    )
    parser.add_argument(
        "--validate-config",
        action="store_true",
        help="check the configuration and print what is in effect, secrets masked; start nothing",
    )
    parser.add_argument("--dry-run", action="store_true", help="serve, but connect to no log")
    parser.add_argument("--version", action="version", version=f"certstream-server {__version__}")
    return parser


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("needs the path of a file")
    return Path(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 when all went well, 1 where the operator must act."""
    try:
        return _main(_parser().parse_args(argv))
    except ConfigError as exc:
        for mistake in exc.mistakes:
            print(mistake, file=sys.stderr)
    except StateError as exc:
        print(exc, file=sys.stderr)
    except SystemExit as exc:  # --help and --version
        return exc.code if isinstance(exc.code, int) else 0
    except KeyboardInterrupt:
        return 130
    return 1


def _main(flags: argparse.Namespace) -> int:
    loaded = load_config(flags.config, os.environ)
    setup_logging(loaded.config.log_level, loaded.config.log_format)
    _report(loaded)
    if flags.validate_config:
        print(effective_yaml(loaded.config), end="")
        return 0
    from certstream.app import run  # the whole service, which checking a configuration does not need

    return run(loaded, dry_run=flags.dry_run, demo=flags.demo)


def _report(loaded: LoadedConfig) -> None:
    log.info("configuration read", file=str(loaded.path) if loaded.path else None)
    if loaded.ignored:
        log.warning("options without meaning in this version", options=", ".join(loaded.ignored))
    for warning in loaded.warnings:
        log.warning("configuration", note=warning)
