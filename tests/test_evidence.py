"""What a log said that does not fit together is kept, once, bounded, and makes the log suspect."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from certstream.ct.types import LogInfo, TreeHead
from certstream.errors import InvalidProofError
from certstream.evidence import Case, EvidenceStore, inconsistent

LOG = LogInfo("log", "https://log.example/a/", "static", "example", b"key", b"id" * 16)
OTHER = LogInfo("other", "https://log.example/b/", "rfc6962", "example")
HEAD = TreeHead(300, 1_700_000_000_000, b"\1" * 32, b"signature", "origin\n300\nAQ==\n\n— origin c2ln\n".encode())
CASE = Case("two_roots", LOG, "another root at 300", [HEAD, replace(HEAD, root_hash=b"\2" * 32)])
NOTED_S = 1_700_000_100.0


def content(path: Path | None) -> dict[str, Any]:
    assert path is not None
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_a_case_is_written_so_that_anybody_can_check_it(tmp_path: Path) -> None:
    case = replace(CASE, start=256, stop=300, hashes={"leaf": b"\3" * 32}, bodies={"tile/data/001.p/44": b"bytes"})
    document = content(EvidenceStore(tmp_path / "evidence").record(case, NOTED_S))
    assert document["kind"] == "two_roots"
    assert document["noted"] == NOTED_S
    assert document["range"] == [256, 300]
    assert base64.b64decode(document["log"]["key"]) == b"key"
    assert [base64.b64decode(head["root_hash"]) for head in document["heads"]] == [b"\1" * 32, b"\2" * 32]
    assert document["heads"][0]["note"] == HEAD.note.decode()
    assert base64.b64decode(document["hashes"]["leaf"]) == b"\3" * 32
    assert document["bodies"]["tile/data/001.p/44"] == {"size": 5, "content": "Ynl0ZXM="}


def test_the_same_case_is_written_once(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    first = store.record(CASE, NOTED_S)
    again = EvidenceStore(tmp_path).record(replace(CASE, error="in other words", bodies={"x": b"y"}), NOTED_S + 60)
    assert first == again
    assert content(first)["noted"] == NOTED_S
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_of_another_case_is_removed(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    first = store.record(CASE, NOTED_S)
    assert first is not None
    left, note = first.with_name(f"{first.name}.tmp-4242"), tmp_path / "note.tmp-4242"
    for path in (left, note):
        path.write_bytes(b"half of")
        os.utime(path, times=(NOTED_S, NOTED_S))
    second = store.record(replace(CASE, kind="inconsistent"), NOTED_S)
    assert {*tmp_path.iterdir()} == {first, second, note}


def test_other_cases_have_files_of_their_own(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    cases = [
        CASE, replace(CASE, kind="inconsistent"), replace(CASE, log=OTHER), replace(CASE, start=0, stop=9),
        replace(CASE, heads=[HEAD]), replace(CASE, hashes={"leaf": b"\3" * 32}),
    ]  # fmt: skip
    assert len({store.record(case, NOTED_S) for case in cases}) == len(cases)


def test_one_head_that_is_not_consistent_is_one_case_whatever_it_is_held_against(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    cause = InvalidProofError("does not lead to the roots")
    edges = [(3, b"\3" * 32), (4, b"\4" * 32)]
    reference = replace(HEAD, tree_size=HEAD.tree_size - 1)
    cases = [inconsistent(CASE.log, heads, *edge, cause) for heads in ([HEAD], [reference, HEAD]) for edge in edges]
    what = f"a head of {HEAD.tree_size} entries is not consistent with the first 3"
    assert cases[0].error == f"{CASE.log.name}: {what}: {cause}"
    assert cases[0].hashes == {"root_proven_before": edges[0][1]}
    assert len({store.record(case, NOTED_S) for case in cases}) == 1
    other = inconsistent(CASE.log, [replace(HEAD, root_hash=b"\7" * 32)], *edges[0], cause)
    assert store.record(other, NOTED_S) is not None
    assert len(list(tmp_path.iterdir())) == 2


def test_a_log_is_suspect_until_its_files_are_removed(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "evidence")
    assert store.suspects([LOG, OTHER]) == {}
    path = store.record(CASE, NOTED_S)
    store.record(replace(CASE, kind="inconsistent"), NOTED_S)
    (tmp_path / "evidence" / "README").write_text("by hand")
    assert store.suspects([LOG, OTHER]) == {LOG.base_url: 2}
    assert path is not None
    path.unlink()
    assert store.suspects([LOG, OTHER]) == {LOG.base_url: 1}
    assert store.record(CASE, NOTED_S) == path


def test_files_are_bounded_in_number_for_each_log_and_kind(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    kept = [store.record(replace(CASE, start=i, stop=i + 1), NOTED_S) for i in range(20)]
    assert None not in kept
    with capture_logs() as lines:
        assert store.record(replace(CASE, start=20, stop=21), NOTED_S) is None
        assert store.record(replace(CASE, start=21, stop=22), NOTED_S) is None
    assert [line["event"] for line in lines] == ["there is much evidence already, further cases are not kept"]
    assert store.record(replace(CASE, log=OTHER), NOTED_S) is not None
    assert store.suspects([LOG]) == {LOG.base_url: 20}
    assert store.record(replace(CASE, kind="inconsistent"), NOTED_S) is not None
    assert store.record(replace(CASE, kind="altered_precert"), NOTED_S) is not None


def test_files_of_all_logs_are_bounded_in_number(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    logs = [replace(LOG, url=f"https://log{i}.example/") for i in range(50)]
    kept = [store.record(replace(CASE, log=log, start=i, stop=i + 1), NOTED_S) for log in logs for i in range(20)]
    assert None not in kept
    assert store.record(replace(CASE, log=OTHER), NOTED_S) is None
    assert store.record(replace(CASE, log=OTHER, kind="altered_precert"), NOTED_S) is not None
    assert len(list(tmp_path.iterdir())) == 1_001


def test_a_file_is_bounded_in_size(tmp_path: Path) -> None:
    case = replace(CASE, bodies={f"tile/data/{i}": bytes(1 << 20) for i in range(3)})
    path = EvidenceStore(tmp_path).record(case, NOTED_S)
    document = content(path)
    assert path is not None
    assert path.stat().st_size < 300 << 10
    assert [body["size"] for body in document["bodies"].values()] == [1 << 20] * 3


def test_what_cannot_be_written_is_said_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("a file where the directory should be")
    store = EvidenceStore(tmp_path / "evidence")
    with capture_logs() as lines:
        assert store.record(CASE, NOTED_S) is None
        assert store.record(CASE, NOTED_S) is None
    assert [line["event"] for line in lines] == ["evidence cannot be written"]
    with pytest.raises(OSError, match="Not a directory"):
        store.suspects([LOG])
    (tmp_path / "evidence").unlink()
    assert store.record(CASE, NOTED_S) is not None
    assert not list(tmp_path.glob("**/*.tmp*"))


def test_an_altered_precertificate_makes_no_log_suspect(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    altered = [Case("altered_precert", LOG, "another", start=i, stop=i + 1) for i in range(21)]
    assert [store.record(case, NOTED_S) is not None for case in altered] == [True] * 20 + [False]
    assert store.suspects([LOG]) == {}
