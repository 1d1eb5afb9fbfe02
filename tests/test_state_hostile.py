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


def test_a_log_that_stands_there_twice_is_where_the_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "certstream_state.json"
    path.write_text('{"logs":{"https://log.example":{"archive_start":3},"https://log.example/":{"current_index":7}}}')
    state = StateStore(path)
    state.open()
    try:
        position = state.position("https://log.example")
    finally:
        state.close()
    assert position is not None
    assert read_positions(path) == {"https://log.example": position}
    assert position.current_index == 7
