"""Certificates that the tests of this folder share."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pybase64
import pytest

from certstream.certs.columns import Certificates
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.static_ct import parse_data_tile
from certstream.ct.types import EntryBatch, LogInfo

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="session")
def corpus() -> list[dict[str, Any]]:
    """20 real entries and the messages that another server makes of them."""
    entries: list[dict[str, Any]] = json.loads((DATA / "ct_entries.json").read_text())
    return entries


@pytest.fixture(scope="session")
def real_tile() -> EntryBatch:
    """A real data tile of 256 precertificates."""
    log = LogInfo("Navigli", "https://navigli.example/", "static", "example")
    tile = parse_data_tile(log, 0, (DATA / "tiles" / "data-000").read_bytes())
    assert tile.error is None
    return tile.batch


@pytest.fixture(scope="session")
def real_certificates(corpus: list[dict[str, Any]], real_tile: EntryBatch) -> list[bytes]:
    """DER of real leaf certificates, precertificates and of certificates that strict parsers reject."""
    parts = [pybase64.b64decode(entry[key]) for entry in corpus for key in ("leaf_input", "extra_data")]
    batch = frame_entries(LogInfo("x", "https://x/", "rfc6962", "x"), 0, parts)
    found = [b.data[a:z] for b in (batch, real_tile) for a, z in zip(b.cert.start, b.cert.stop, strict=True)][:80]
    for path in sorted((DATA / "malformed").glob("*.pem")):
        found.append(ssl.PEM_cert_to_DER_cert(path.read_text()))
    return found


@pytest.fixture(scope="session")
def decoded() -> Callable[[Sequence[bytes]], Certificates]:
    """DER of certificates → their columns, decoded as one batch."""
    return Certificates
