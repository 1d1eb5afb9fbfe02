"""Imports go one way, protocol code is pure, and streaming loads no archive libraries."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "certstream"

_DECODING = {"errors", "ct", "certs"}
_READING = {*_DECODING, "delivery_metrics", "metrics", "client"}
_SERVICE = {
    *_READING,
    "config",
    "evidence",
    "live",
    "logging_setup",
    "serve",
    "signals",
    "simulator",
    "state",
    "stream",
    "trust_metrics",
}
_ARCHIVE = {
    "archive",
    "archive_metrics",
    "backfill",
    "durable",
    "intervals",
    "ledger",
    "locks",
    "permissions",
    "progress",
}
# Every part, and the parts that it may import beside itself
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "ct": {"errors"},
    "intervals": {"ct"},
    "durable": set(),
    "permissions": set(),
    "evidence": {"ct", "durable", "permissions"},
    "locks": {"errors", "permissions"},
    "ledger": {"durable", "errors", "intervals", "locks", "permissions"},
    "terminal": set(),
    "progress": {"errors", "terminal"},
    "certs": {"errors", "ct"},
    "archive_metrics": set(),
    "trust_metrics": {"evidence"},
    "delivery_metrics": set(),
    "metrics": {"archive_metrics", "delivery_metrics", "trust_metrics"},
    "starting": set(),
    "signals": {"starting"},
    "config": {"errors", "ct"},
    "logging_setup": {"errors", "config"},
    "state": {"ct", "errors", "state_file"},
    "state_file": {"durable", "errors", "locks", "permissions"},
    "client": {*_DECODING, "durable", "evidence", "metrics", "permissions"},
    "live": _READING,
    "backfill": {*_READING, "archive_metrics", "evidence", "intervals", "ledger", "progress", "terminal"},
    "stream": {"errors", "metrics"},
    "serve": {"errors", "metrics", "stream"},
    "archive": {
        *_DECODING,
        "archive_metrics",
        "durable",
        "intervals",
        "ledger",
        "locks",
        "metrics",
        "permissions",
        "progress",
    },
    "simulator": _DECODING,
    "app": {*_SERVICE, *_ARCHIVE, "terminal"},
    "flags": {"errors", "config"},
    "healthcheck": {"errors", "config"},
    "subscribe": {"errors", "client", "terminal"},
    "core": {"errors", "client", "subscribe"},
    "tail": {"errors", "subscribe", "terminal"},
    "cli": {*_SERVICE, *_ARCHIVE, "app", "flags", "healthcheck", "starting", "tail"},
    "__main__": {"cli"},
}
PURE = ("ct", "certs", "intervals", "backfill.planner")
IMPURE = {"aiohttp", "asyncio", "os", "pathlib", "random", "secrets", "socket", "structlog", "threading", "time"}


def modules() -> list[str]:
    return sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "certstream."))


def is_pure(module: str) -> bool:
    return any(f"{module}.".startswith(f"certstream.{pure}.") for pure in PURE)


def part_of(module: str) -> str:
    return module.split(".")[1]


def imported_by(module: str) -> Iterator[str]:
    """Every module that the source names in an import, wherever in it that stands."""
    path = ROOT / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported_by(module: str) -> set[str]:
    """The parts of this program among them; `from certstream import __version__` is no part."""
    names = [name for name in imported_by(module) if name.startswith("certstream.")]
    return {part_of(name) for name in names} - {part_of(module), "__version__"}


@pytest.mark.parametrize("module", modules())
def test_imports_go_one_way(module: str) -> None:
    part = part_of(module)
    assert part in MAY_IMPORT, f"say in this test what {part} may import"
    assert parts_imported_by(module) <= MAY_IMPORT[part]


@pytest.mark.parametrize("module", [module for module in modules() if is_pure(module)])
def test_protocol_and_decoding_do_no_input_or_output(module: str) -> None:
    assert {name.split(".")[0] for name in imported_by(module)} & IMPURE == set()


def test_the_rule_has_no_circle() -> None:
    def reached(part: str) -> set[str]:
        return MAY_IMPORT[part] | {further for other in MAY_IMPORT[part] for further in reached(other)}

    for part in MAY_IMPORT:
        assert part not in reached(part)


_LOAD = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({"pyarrow", "deltalake"} & set(sys.modules)))
"""


# Of `app`, what is loaded with an archive alone
_APP_WITH_ARCHIVE = (
    "archive",
    "backfill",
    "commands",
    "coverage.reader",
    "coverage.watch",
    "jobs",
    "merge",
    "reread",
    "upkeep",
    "verification.command",
)
WITH_ARCHIVE = {f"certstream.app.{name}" for name in _APP_WITH_ARCHIVE}


def test_streaming_loads_neither_pyarrow_nor_deltalake() -> None:
    """The whole service; what turns batches into Arrow is loaded by the call that asks for it."""
    lazy = {"certstream.certs.arrow", *WITH_ARCHIVE}
    names = [n for n in modules() if part_of(n) not in ("archive", "backfill", "__main__") and n not in lazy]
    assert {"certstream.app.service", "certstream.cli"} <= {*names}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, *names], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
