"""The flags of `certstream tail`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from certstream.errors import ConfigError
from certstream.subscribe.options import ConnectOptions, StreamKind, stream_url

DEFAULT_URL: Final = "ws://127.0.0.1:8080/"

_EPILOG: Final = """\
On a terminal each certificate is a line: time, log, names. Elsewhere, or with
--json, it is a line of JSON, the message as it came. What happens to the
connection goes to stderr; one that ends is made again by itself.

HTTPS_PROXY, HTTP_PROXY and NO_PROXY are heeded. NO_COLOR means --no-color.

exit codes: 0 when whoever reads the output has gone (| head); 1 for a mistake,
or where trying again would not help: wrong token, no such stream, certificate
not trusted; ended by a signal otherwise, which shells show as 130 after Ctrl+C
and 143 after SIGTERM"""


@dataclass(frozen=True, slots=True)
class TailFlags:
    """What to follow, and how to show it."""

    connect: ConnectOptions
    json: bool
    color: bool
    whole: bool  # all names of a certificate, however many lines they take
    match: str | None  # in lower case
    verbose: bool


def parse_tail_flags(argv: Sequence[str]) -> TailFlags:
    """Read the flags. Raises ConfigError for a mistake, SystemExit after --help."""
    parser = _parser()
    flags = parser.parse_args(argv)
    kind: StreamKind | None = "full" if flags.full else "domains" if flags.domains else None
    try:
        url = stream_url(flags.url, kind) if kind else flags.url
        connect = ConnectOptions(url=url, token=_token(flags.token_file))
        connect.effective_proxy()
    except ValueError as exc:
        raise ConfigError(f"{parser.prog}: {exc}") from exc
    match = flags.match.lower() if flags.match else None
    return TailFlags(connect, flags.json, not flags.no_color, flags.full, match, flags.verbose)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: a token is visible ASCII without spaces") from exc


class _Parser(argparse.ArgumentParser):
    """A mistake in the flags is a ConfigError, as with the other flags of the program."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="certstream tail",
        description="Follow the stream of a server and print what comes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--url", default=DEFAULT_URL, help="the server, or one of its streams (default: %(default)s)")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--full", action="store_true", help="the stream with DER and chain; on a terminal all names")
    kinds.add_argument("--domains", action="store_true", help="the stream of names alone")
    add("--match", metavar="TEXT", help="only certificates with TEXT in one of their names, in any case of letters")
    add("--json", action="store_true", help="lines of JSON also on a terminal")
    add("--no-color", "--disable-colors", action="store_true", help="no colours on a terminal")
    add("--token-file", type=Path, metavar="FILE", help="a file with the token that the server asks for")
    add("--verbose", action="store_true", help="say on stderr also when a heartbeat comes")
    return parser
