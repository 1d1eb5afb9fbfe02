"""How `certstream tail` writes messages for a person and for a program."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.errors import StreamError
from certstream.tail.lines import PersonFormat, json_line, names_of, safe_json_line
from certstream.terminal import cells_of, cut_to, printable
from tests.clients.clients_support import update

CLOCK = r"\d\d:\d\d:\d\d"


def message_of(*names: str, log: str = "Log") -> dict[str, Any]:
    message = update("x")
    message["data"]["leaf_cert"]["all_domains"] = [*names]
    message["data"]["source"]["name"] = log
    return message


def line(message: dict[str, Any], width: int = 80, *, color: bool = False, whole: bool = False) -> str:
    text = PersonFormat(lambda: width, color=color, whole=whole)(b"", message)
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text[:-1]


def test_a_line_has_time_log_and_names() -> None:
    assert re.fullmatch(
        rf"{CLOCK}  Argon2027h1  a\.example, b\.example", line(message_of("a.example", "b.example", log="Argon2027h1"))
    )


def test_names_that_do_not_fit_are_counted() -> None:
    names = [f"name{n}.example" for n in range(9)]
    assert line(message_of(*names), 50)[20:] == "name0.example +8"
    assert line(message_of(*names), 51)[20:] == "name0.example, name1.example +7"
    assert line(message_of(*names[:3]), 62)[20:] == "name0.example, name1.example +1"
    assert line(message_of(*names[:3]), 63)[20:] == ", ".join(names[:3])


def test_a_name_that_does_not_fit_is_cut() -> None:
    shown = line(message_of("a" * 200), 40)
    assert len(shown) == 40
    assert shown.endswith("aaa…")


def test_on_a_narrow_terminal_the_log_is_left_out() -> None:
    assert re.fullmatch(rf"{CLOCK}  Log       a\.example", line(message_of("a.example"), 40))
    assert re.fullmatch(rf"{CLOCK}  a\.example", line(message_of("a.example"), 39))


def test_with_whole_all_names_are_there() -> None:
    names = [f"name{n}.example" for n in range(99)]
    assert line(message_of(*names), 60, whole=True)[20:] == ", ".join(names)


def test_the_column_of_the_log_grows_with_the_names_that_came() -> None:
    write = PersonFormat(lambda: 120, color=False)
    lines = [write(b"", message_of("a.example", log=log)) for log in ("short", "a longer log", "short", "x" * 90)]
    assert [text.index("a.example") for text in lines] == [20, 24, 24, 44]


def test_colors_change_nothing_but_colors() -> None:
    message = message_of("a.example", "b.example", "c" * 90)
    colored = line(message, color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[\d*m", "", colored)[8:] == line(message)[8:]


@pytest.mark.parametrize("name", ["\x1b[2J", "\x9b2J", "a\nb", "a\rb", "\u202egpj.exe", "\x07", "\x7f", "a\u2028b"])
def test_a_hostile_name_does_not_steer_the_terminal(name: str) -> None:
    message = message_of(name, log=name)
    assert line(message).isprintable()
    for character in name:
        if not character.isprintable():
            assert character not in safe_json_line(b"", message)[:-1]
    assert json.loads(safe_json_line(b"", message_of("a\x9bb")))["data"]["leaf_cert"]["all_domains"] == ["a\x9bb"]


@pytest.mark.parametrize(
    ("message", "names"),
    [
        ({"message_type": "dns_entries", "data": ["a.example", "b.example"]}, ["a.example", "b.example"]),
        (message_of(), ["/CN=x"]),
        ({"message_type": "certificate_update", "data": {"leaf_cert": {"all_domains": None, "subject": {}}}}, []),
        ({"message_type": "certificate_update", "data": None}, []),
        ({"data": {"leaf_cert": [1]}}, []),
        ({"data": [1, "a.example", None]}, ["a.example"]),
        ({}, []),
    ],
)
def test_names_are_found_in_messages_of_every_stream_and_server(message: dict[str, Any], names: list[str]) -> None:
    assert names_of(message) == names
    assert (", ".join(names) or "no names") in line(message)


@pytest.mark.parametrize("seen", [None, "x", 1e30, float("nan"), -1e30, True])
def test_a_time_that_is_none_is_now(seen: Any) -> None:
    message = message_of("a.example")
    message["data"]["seen"] = seen
    assert re.match(CLOCK, line(message))


def test_json_is_the_message_as_it_came_on_one_line() -> None:
    message = message_of("ü.example")
    compact = json.dumps(message, ensure_ascii=False).encode()
    assert json_line(compact, message) == compact.decode() + "\n"
    assert json_line(b'{"a":"\xe2\x80\xa8"}', {}) == '{"a":"\u2028"}\n'
    for spread in (json.dumps(message, indent=2), json.dumps(message, indent=2).replace("\n", "\r")):
        line = json_line(spread.encode(), message)
        assert ("\n" in line[:-1], "\r" in line, json.loads(line)) == (False, False, message)


def test_what_is_nested_too_deeply_is_an_error_of_the_stream() -> None:
    message: dict[str, Any] = {}
    for _ in range(100_000):
        message = {"a": message}
    with pytest.raises(StreamError, match="nested too deeply"):
        safe_json_line(b"", message)
    with pytest.raises(StreamError, match="nested too deeply"):
        json_line(b"{\n}", message)


@given(st.lists(st.text(max_size=60), max_size=20), st.text(max_size=60), st.integers(24, 200))
def test_a_line_is_never_wider_than_the_terminal_and_safe(names: list[str], log: str, width: int) -> None:
    shown = line(message_of(*names, log=log), width)
    assert cells_of(shown) <= width
    assert shown.isprintable()


@given(st.text(), st.integers(-1, 50))
def test_cutting_keeps_the_beginning_and_the_bound(text: str, most: int) -> None:
    cut = cut_to(text, most)
    assert text.startswith(cut)
    assert cells_of(cut) <= max(most, 0)
    assert cut == text or cells_of(text) > most
    assert printable(text).isprintable()
