"""A state file is one that can be written again, or it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from certstream.errors import StateError
from certstream.state import StateStore, read_positions


def test_a_file_that_nests_too_deeply_to_be_written_again_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "certstream_state.json"
    content = b'{"version":1,"logs":{},"other":' + b"[" * 600 + b"]" * 600 + b"}"
    path.write_bytes(content)
    with pytest.raises(StateError, match="is not JSON"):
        StateStore(path).open()
    with pytest.raises(StateError, match="is not JSON"):
        read_positions(path)
    assert path.read_bytes() == content
