"""What the tests of the state file share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from certstream.state import StateStore

URL = "https://ct.example.com/2026h1"


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[StateStore]:
    store = StateStore(path, **options)
    store.open()
    try:
        yield store
    finally:
        store.close()


def written(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document
