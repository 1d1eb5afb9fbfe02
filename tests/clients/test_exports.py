"""What `import certstream` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import certstream

ROOT = Path(certstream.__file__).parent.parent


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_importing_it_loads_nothing_that_it_needs_only_later() -> None:
    heavy = {"aiohttp", "asyncio", "certstream.core", "cryptography", "json", "logging", "pydantic"}
    assert run(f"import certstream, sys; print(sorted({heavy!r} & {{*sys.modules}}))") == "[]"


def test_following_a_stream_loads_nothing_of_the_server() -> None:
    ours = run(
        "import certstream, sys; certstream.listen_for_events; certstream.messages; certstream.core.CertStreamClient\n"
        "print(*(name for name in sys.modules if name.split('.')[0] in ('certstream', 'numpy', 'pydantic', 'pyarrow')))"
    )
    packages = {name.split(".")[1] for name in ours.split() if "." in name}
    assert packages == {"client", "core", "errors", "subscribe", "terminal"}


def test_every_name_that_it_says_it_has_is_there() -> None:
    for name in certstream.__all__:
        assert getattr(certstream, name) is not None
    assert {*certstream.__all__} <= {*dir(certstream)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = certstream.nothing


def test_the_ways_to_import_it_that_are_in_use_work() -> None:
    assert run("from certstream import listen_for_events as a; from certstream.core import listen_for_events as b\n"
               "import certstream.core; print(a is b is certstream.listen_for_events)") == "True"  # fmt: skip
