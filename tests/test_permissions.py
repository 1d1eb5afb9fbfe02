"""What this process may not read or write: it is said whose it is, and it stays as it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certstream.ct.types import LogInfo
from certstream.errors import StateError, StorageError
from certstream.evidence import Case, EvidenceStore
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust
from certstream.permissions import reason, user_name
from certstream.state import StateStore

OWNER = user_name(os.geteuid()) or f"uid {os.geteuid()}"
NOBODY = 65_534
LOG = LogInfo("log", "https://log.example/a/", "static", "example")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter; that of tmp_path is its owner's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def unprivileged() -> Iterator[str]:
    """Be somebody whom the modes of files bind, as root is not; the name of that user."""
    if os.geteuid() != 0:
        yield OWNER
        return
    os.seteuid(NOBODY)
    try:
        yield user_name(NOBODY) or f"uid {NOBODY}"
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("recovery", ["fail", "fresh"])
def test_a_state_file_that_may_not_be_read_stays_whatever_is_done_with_unreadable_ones(
    place: Path, recovery: str
) -> None:
    path = place / "state.json"
    path.write_text('{"version": 1, "logs": {"https://log.example": {"current_index": 5}}}')
    (place / "state.json.lock").touch()
    (place / "state.json.lock").chmod(0o666)
    path.chmod(0)
    place.chmod(0o777)
    with unprivileged() as name, pytest.raises(StateError) as caught:
        StateStore(path, recovery=recovery).open()  # type: ignore[arg-type] # one of the two
    assert str(caught.value) == (
        f"{path}: cannot be read: Permission denied: {path} belongs to {OWNER} (mode 0000), this process is {name}'s"
    )
    assert {each.name for each in place.iterdir()} == {"state.json", "state.json.lock"}
    path.chmod(0o600)
    store = StateStore(path)
    store.open()
    position = store.position("https://log.example")
    store.close()
    assert position is not None
    assert position.current_index == 5


def test_a_directory_that_may_not_be_written_is_named_where_a_lock_cannot_be_made(place: Path) -> None:
    place.chmod(0o555)
    with unprivileged() as name, pytest.raises(StateError) as caught:
        StateStore(place / "state.json").open()
    assert str(caught.value) == (
        f"{place / 'state.json.lock'}: cannot be locked: Permission denied: "
        f"{place} belongs to {OWNER} (mode 0555), this process is {name}'s"
    )


def test_evidence_that_may_not_be_written_is_said_with_whose_its_directory_is(place: Path) -> None:
    place.chmod(0o555)
    with unprivileged(), capture_logs() as lines:
        store = EvidenceStore(place / "evidence")
        assert [store.record(Case("two_roots", LOG, "no"), 1.0) for _ in range(2)] == [None, None]
    (line,) = lines
    assert line["event"] == "evidence cannot be written"
    assert f"Permission denied: {place} belongs to {OWNER} (mode 0555)" in line["error"]
    place.chmod(0o755)
    assert store.record(Case("two_roots", LOG, "no"), 1.0) is not None


def test_a_ledger_that_may_not_be_written_is_said_with_whose_it_is_and_stays(place: Path) -> None:
    known = {LOG.base_url: Trust(Intervals.of((0, 5)))}
    ledger = Ledger(place / "trust.json")
    ledger.note(known)
    place.chmod(0o555)
    (place / "trust.json.lock").chmod(0o666)
    with unprivileged(), pytest.raises(StorageError, match=rf"trust\.json belongs to {OWNER} \(mode 0"):
        ledger.note({LOG.base_url: Trust(Intervals.of((5, 9)))})
    assert Ledger(place / "trust.json").read() == known


def test_what_is_refused_for_another_reason_is_nobodys(tmp_path: Path) -> None:
    assert reason(OSError(28, "No space left on device"), tmp_path) == "No space left on device"


def test_a_pipe_in_place_of_the_state_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    os.mkfifo(path)
    with pytest.raises(StateError, match=r"state\.json: is not a file; "):
        StateStore(path).open()


def test_a_state_file_of_a_newer_version_is_for_a_newer_certstream(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"version": 2, "logs": {}}')
    with pytest.raises(StateError, match="has version 2, 1 is known here: go on with a newer certstream; "):
        StateStore(path).open()
    assert path.read_text() == '{"version": 2, "logs": {}}'
