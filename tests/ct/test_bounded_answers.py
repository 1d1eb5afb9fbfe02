"""What an answer costs, in steps and in memory, grows with its size and not faster, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from certstream.ct.log_choice import NamedList, Selection, choose_logs
from certstream.ct.log_list import parse_log_list
from certstream.ct.rfc6962 import parse_consistency, parse_get_entries, parse_sth
from certstream.ct.static_ct import parse_checkpoint, parse_data_tile
from certstream.errors import MalformedError
from fuzz.protocol import accepts
from fuzz.seeds import CHECKPOINT, CLASSIC, TILED
from tests.ct.log_list_support import classic, document
from tests.fuzz_support import peak_bytes, steps


def many(entry: str) -> Callable[[int], bytes]:
    return lambda n: b'{"entries":[' + b",".join([entry.encode()] * n) + b"]}"


def same_names(count: int) -> bytes:
    """Logs of one name, behind others that are called as each of them would be instead."""
    others = [classic(number, description=f"Log (ct.example.com/{number + count})") for number in range(1, count + 1)]
    return document(*others, *(classic(number + count, description="Log") for number in range(1, count + 1)))


def read_list(body: bytes) -> None:
    found = parse_log_list(body)
    choose_logs([NamedList("one", found), NamedList("two", found)], Selection(), 0)


HOSTILE: dict[str, tuple[Callable[[bytes], object], Callable[[int], bytes]]] = {
    "empty entries": (
        lambda body: parse_get_entries(CLASSIC, 0, body),
        many('{"leaf_input":"","extra_data":""}'),
    ),
    "entries with many members": (
        lambda body: parse_get_entries(CLASSIC, 0, body),
        many('{"leaf_input":"","extra_data":"",' + ",".join(f'"{n}":[]' for n in range(50)) + "}"),
    ),
    "entries of which few are wanted": (
        lambda body: parse_get_entries(CLASSIC, 0, body, most=1),
        many('{"leaf_input":"AAAA","extra_data":""}'),
    ),
    "the same member": (parse_sth, lambda n: b"{" + b",".join([b'"tree_size":1'] * n) + b"}"),
    "a long number": (parse_sth, lambda n: b'{"tree_size":' + b"9" * 10 * n + b"}"),
    "a long proof": (parse_consistency, lambda n: orjson.dumps({"consistency": ["A" * 44] * n})),
    "signature lines": (parse_checkpoint, lambda n: CHECKPOINT + "— x AAAAAAAA\n".encode() * n),
    "lines before them": (parse_checkpoint, lambda n: b"x\n" * n + CHECKPOINT),
    "leaves of nothing": (lambda body: parse_data_tile(TILED, 0, body), lambda n: bytes(17 * n)),
    "a leaf that is too long": (lambda body: parse_data_tile(TILED, 0, body), lambda n: b"\xff" * 17 * n),
    "operators": (read_list, lambda n: orjson.dumps({"operators": [{"name": "x", "logs": []}] * n})),
    "logs that are none": (read_list, lambda n: orjson.dumps({"operators": [{"name": "x", "logs": [0] * n}]})),
    "a text without end": (read_list, lambda n: document(classic(1), classic(2, url="https://" + "x" * 100 * n))),
    "arrays in arrays": (read_list, lambda n: b'{"operators":' + b"[" * n),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_steps_and_memory_grow_with_the_size(what: str) -> None:
    parse, write = HOSTILE[what]
    few, more = write(500), write(2_000)

    def read(body: bytes) -> None:
        accepts(MalformedError, parse, body)

    read(few)  # whatever is loaded the first time
    assert steps(lambda: read(more)) <= 8 * steps(lambda: read(few))
    assert peak_bytes(lambda: read(more)) < (1 << 20) + 100 * len(more)


def test_logs_of_one_name_take_a_name_each_in_no_more_steps_than_there_are_logs() -> None:
    few, more = same_names(120), same_names(480)
    read_list(few)
    assert steps(lambda: read_list(more)) <= 4.5 * steps(lambda: read_list(few))
