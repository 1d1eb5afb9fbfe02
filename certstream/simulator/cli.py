"""`certstream-ctlog`: simulated logs on their own, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import logging
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import uvloop

from certstream.ct.types import LogKind
from certstream.simulator.faults import FaultKind, parse_fault
from certstream.simulator.generator import shape_names
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer

_KINDS: dict[str, frozenset[LogKind]] = {
    "rfc6962": frozenset({"rfc6962"}),
    "static": frozenset({"static"}),
    "both": frozenset({"rfc6962", "static"}),
}
_DEFAULT_LOGS = ["sim-rfc6962=rfc6962", "sim-static=static"]
_logger = logging.getLogger("certstream.ctlog")


class _FlagError(Exception):
    """A mistake in the flags, told in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _FlagError(message)


def _number(text: str, kind: type[int] | type[float], lowest: float, highest: float) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not lowest <= value <= highest:
        raise argparse.ArgumentTypeError(f"{text} is not from {lowest:g} to {highest:g}")
    return value


def _count(text: str) -> int:
    return int(_number(text, int, 0, 1e11))


def _port(text: str) -> int:
    return int(_number(text, int, 0, 65535))


def _rate(text: str) -> float:
    return _number(text, float, 0, 1e6)


def _share(text: str) -> float:
    return _number(text, float, 0, 1)


def _seconds(text: str) -> float:
    return _number(text, float, 0, 86_400)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="certstream-ctlog",
        description="Simulated Certificate Transparency logs: real trees and signatures, both protocols, "
        "scripted faults. Prints one line of JSON with their URLs, then serves until SIGINT or SIGTERM.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--port", type=_port, default=6962, help="port to listen on, 0 for any free one (default %(default)s)")
    add(
        "--log",
        action="append",
        metavar="NAME=KIND",
        help=f"a log and what it serves: {', '.join(_KINDS)}; repeatable (default {' '.join(_DEFAULT_LOGS)})",
    )
    add("--rate", type=_rate, default=10.0, help="growth of each log, entries/s (default %(default)s)")
    add("--initial", type=_count, default=1000, help="entries at start; a million takes 4 s (default %(default)s)")
    add(
        "--seed",
        type=int,
        default=0,
        help="what certificates and keys follow from; the next log takes the next (default %(default)s)",
    )
    add("--epoch-ms", type=_count, help="Unix ms that timestamps are counted from (default: now)")
    add("--publish-interval", type=_seconds, default=1.0, metavar="S", help="between heads (default %(default)s)")
    add("--unparseable", type=_share, default=0.0, help="share of certificates no one can read (default %(default)s)")
    add("--shapes", metavar="A,B", help=f"only these shapes of certificates, of: {', '.join(shape_names())}")
    add("--page-size", type=_count, default=1000, help="most entries in a get-entries page (default %(default)s)")
    add("--page-boundary", type=_count, default=0, help="pages end at its multiples, 0 for none (default %(default)s)")
    add("--keep-partials", action="store_true", help="serve partial tiles also once the full tile exists")
    add("--gzip", choices=("accepted", "always", "never"), default="accepted", help="data tiles (default %(default)s)")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="[LOG:]KIND[,FIELD=VALUE]...",
        help=f"something to go wrong; kinds: {', '.join(FaultKind)}; fields: probability, on (glob over endpoint or "
        "path), index, nth, times, status, retry_after_s, retry_after_date, seconds, entries, issuer",
    )
    return parser


def _logs(flags: argparse.Namespace) -> list[SimulatedLog]:
    texts = flags.log or _DEFAULT_LOGS
    logs = [_log(flags, flags.seed + number, *text.partition("=")[::2]) for number, text in enumerate(texts)]
    by_name = {log.name: log for log in logs}
    if len(by_name) != len(logs):
        raise _FlagError("argument --log: two logs have the same name")
    for text in flags.fault:
        name, colon, spec = text.rpartition(":")
        if colon and name not in by_name:
            raise _FlagError(f"argument --fault: no log is called {name!r}")
        for log in [by_name[name]] if colon else logs:
            log.faults.add(parse_fault(spec))
    return logs


def _log(flags: argparse.Namespace, seed: int, name: str, kind: str) -> SimulatedLog:
    if kind not in _KINDS:
        raise _FlagError(f"argument --log: {name}={kind}: the kind is one of {', '.join(_KINDS)}")
    return SimulatedLog(
        name,
        kinds=_KINDS[kind],
        seed=seed,
        rate=flags.rate,
        initial=flags.initial,
        unparseable=flags.unparseable,
        shapes=flags.shapes.split(",") if flags.shapes else None,
        epoch_ms=flags.epoch_ms,
        publish_interval_s=flags.publish_interval,
        max_page=max(flags.page_size, 1),
        page_boundary=flags.page_boundary,
        keep_partials=flags.keep_partials,
        gzip=flags.gzip,
    )


def _described(server: SimulatorServer) -> str:
    logs = [
        {
            "name": info.name,
            "kind": info.kind,
            "url": info.url,
            "log_id": base64.b64encode(info.log_id or b"").decode(),
            "key": base64.b64encode(info.key or b"").decode(),
            **({"origin": info.origin} if info.origin else {}),
        }
        for info in server.infos()
    ]
    return json.dumps({"log_list": f"{server.base_url}/log_list.json", "logs": logs})


async def _serve(flags: argparse.Namespace, logs: list[SimulatedLog]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with SimulatorServer(logs, flags.host, flags.port) as server:
        print(_described(server), flush=True)
        _logger.info("serving %d logs at %s", len(logs), server.base_url)
        await ended.wait()
    _logger.info("stopped")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 after a signal, 1 for a mistake in the flags or an address in use."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        flags = _parser().parse_args(argv)
        logs = _logs(flags)
        uvloop.run(_serve(flags, logs))
    except (_FlagError, ValueError) as exc:
        print(f"certstream-ctlog: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"certstream-ctlog: cannot listen on {flags.host}:{flags.port}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
