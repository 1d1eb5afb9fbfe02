"""The search finds what fails, takes too long or too much memory, and makes it small."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from fuzz import search as searching
from fuzz.mutation import mutated, mutated_der, mutated_json
from fuzz.search import kept, search
from fuzz.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]


def target(check: Callable[[bytes], None], at_once: int = 8) -> Target:
    def check_all(inputs: Sequence[bytes]) -> None:
        for data in inputs:
            check(data)

    return Target("made", lambda: [b"some seed"], mutated, check_all, at_once=at_once)


def refuses_two_zeros(data: bytes) -> None:
    if data.count(0) >= 2:
        raise ValueError("two zeros")


def test_an_input_that_fails_is_found_and_made_small() -> None:
    outcome = search(target(refuses_two_zeros), runs=2_000, seconds=None, seed=1)
    assert outcome.runs == 2_000
    assert list(outcome.findings.values()) == [bytes(2)]
    assert all(where.startswith("ValueError at test_search.py:") for where in outcome.findings)


def test_where_nothing_fails_nothing_is_found() -> None:
    outcome = search(target(lambda data: None), runs=100, seconds=None, seed=1)
    assert (outcome.runs, outcome.findings) == (100, {})


def test_an_input_that_takes_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "SLOW_S", 0.05)
    monkeypatch.setattr(searching, "_SHRINK_TRIES", 0)

    def never_ends_at_a_zero(data: bytes) -> None:
        while 0 in data:
            pass

    outcome = search(target(never_ends_at_a_zero, at_once=1), runs=300, seconds=None, seed=1)
    assert {where.split()[0] for where in outcome.findings} == {"OutOfProportionError"}


def test_an_input_that_takes_too_much_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_MEASURED_EVERY", 1)
    monkeypatch.setattr(searching, "_MEASURED_EVERY", 1)

    def takes_9_mib_of_what_is_changed(data: bytes) -> None:
        bytearray(9 << 20 if data != b"some seed" else 0)

    outcome = search(target(takes_9_mib_of_what_is_changed), runs=50, seconds=None, seed=1)
    assert {where.split()[0] for where in outcome.findings} == {"OutOfProportionError"}


def test_the_same_seed_gives_the_same_inputs() -> None:
    seen: list[list[bytes]] = []
    for seed in (3, 3, 4):
        inputs: list[bytes] = []
        search(target(inputs.append), runs=50, seconds=None, seed=seed)
        seen.append(inputs)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_of_every_target_is_borne(name: str) -> None:
    count = len(TARGETS[name].seeds())
    assert count > 0
    assert search(TARGETS[name], runs=count, seconds=None, seed=0).findings == {}


@pytest.mark.parametrize("mutate", [mutated, mutated_der, mutated_json])
def test_any_bytes_can_be_changed_and_stay_about_as_long(mutate: Callable[[bytes, Random], bytes]) -> None:
    random = Random(5)
    for size in (0, 1, 2, 100):
        for _ in range(200):
            data = random.randbytes(size)
            assert len(mutate(data, random)) <= 2 * size + 10_000


def test_a_finding_is_a_file_of_its_own(tmp_path: Path) -> None:
    paths = {kept(tmp_path / "new", target(refuses_two_zeros), where, b"x") for where in ("here", "there", "here")}
    assert len(paths) == 2
    assert all(path.read_bytes() == b"x" for path in paths)


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)


def test_the_command_says_how_many_inputs_it_tried(tmp_path: Path) -> None:
    done = fuzz("--target", "time", "--runs", "200", "--findings", str(tmp_path / "findings"))
    assert done.returncode == 0, done.stderr
    assert "200 inputs" in done.stdout
    assert "0 findings" in done.stdout
    assert not (tmp_path / "findings").exists()


def test_the_command_checks_an_input_again(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"260101000000Z")
    assert fuzz("--target", "time", "--replay", str(path)).stdout == f"time bears {path}\n"
    assert fuzz("--target", "nothing").returncode == 2
