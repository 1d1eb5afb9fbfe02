"""Log lines: one stream, one form, for our loggers and everybody else's."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from certstream.logging_setup import setup_logging


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("certstream")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers, root.level, ours.level = before
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_event_level_logger_time_and_fields() -> None:
    stream = io.StringIO()
    setup_logging("info", "json", stream)
    structlog.get_logger("certstream.live").info("log stalled", log="Argon", tree_size=7, raw=b"\xff")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "log stalled",
        "level": "info",
        "logger": "certstream.live",
        "log": "Argon",
        "tree_size": 7,
        "raw": "b'\\xff'",
    }


def test_a_module_logger_made_before_the_setup_follows_it() -> None:
    logger = structlog.get_logger("certstream.early")
    first, second = io.StringIO(), io.StringIO()
    setup_logging("info", "json", first)
    logger.info("one")
    setup_logging("debug", "json", second)
    logger.debug("two")
    assert [line["event"] for line in lines(first)] == ["one"]
    assert [line["event"] for line in lines(second)] == ["two"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error", "critical"]),
        ("info", ["info", "warning", "error", "critical"]),
        ("warning", ["warning", "error", "critical"]),
        ("error", ["error", "critical"]),
        ("critical", ["critical"]),
    ],
)
def test_lines_below_the_level_are_dropped(level: Any, expected: list[str]) -> None:
    stream = io.StringIO()
    setup_logging(level, "json", stream)
    logger = structlog.get_logger("certstream.x")
    for method in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, method)(method)
    assert [line["event"] for line in lines(stream)] == expected


def test_other_packages_come_out_the_same_way_from_warning_upwards() -> None:
    stream = io.StringIO()
    setup_logging("debug", "json", stream)
    logging.getLogger("asyncio").info("using selector")
    logging.getLogger("aiohttp.server").error("cannot %s", "answer")
    assert [(line["logger"], line["level"], line["event"]) for line in lines(stream)] == [
        ("aiohttp.server", "error", "cannot answer")
    ]


def test_python_warnings_are_log_lines() -> None:
    stream = io.StringIO()
    setup_logging("info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
    (line,) = lines(stream)
    assert line["logger"] == "py.warnings"
    assert "old name" in line["event"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_comes_with_its_traceback(form: Any) -> None:
    stream = io.StringIO()
    setup_logging("info", form, stream)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        structlog.get_logger("certstream.x").exception("task failed")
    text = lines(stream)[0]["exception"] if form == "json" else stream.getvalue()
    assert "Traceback (most recent call last)" in text
    assert "RuntimeError: boom" in text


def test_a_console_line_is_one_line_without_colours_where_no_terminal_is() -> None:
    stream = io.StringIO()
    setup_logging("info", "console", stream)
    structlog.get_logger("certstream.x").warning("log\x1b[2J", error="<html>\n\x1b[31m")
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "<html>\\n\\x1b[31m" in line


def test_the_text_of_an_exception_steers_no_terminal() -> None:
    stream = io.StringIO()
    setup_logging("info", "console", stream)
    try:
        raise ValueError("a\x1b[2J\u202e")
    except ValueError:
        structlog.get_logger("certstream.x").exception("task failed")
        logging.getLogger("asyncio").exception("task failed")
    text = stream.getvalue()
    assert text.count("ValueError: a\\x1b[2J\\u202e\n") == 2
    assert all(line.isprintable() for line in text.splitlines())


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    setup_logging("info", "console", coloured)
    structlog.get_logger("certstream.x").info("hello")
    monkeypatch.setenv("NO_COLOR", "1")
    setup_logging("info", "console", plain)
    structlog.get_logger("certstream.x").info("hello")
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()
