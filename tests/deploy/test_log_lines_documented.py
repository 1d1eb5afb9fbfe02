"""docs/operations.md says of every warning and every error what it means."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
LEVELS: Final = {"warning", "error", "exception", "critical"}
LOGGERS: Final = {"log", "logger"}
# The clients for terminals and scripts
LEFT_OUT: Final = ("subscribe", "tail", "core.py")


def warnings() -> Iterator[tuple[str, str]]:
    """Where each is logged, and its text; `*` for what is put in."""
    for path in sorted((ROOT / "certstream").rglob("*.py")):
        if any(part in LEFT_OUT for part in path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id in LOGGERS:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text_of(node.args[0])


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return "*"


def documented() -> list[str]:
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page[page.index("logs as a warning or an error") : page.index("## Alerts")]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row)]


def is_documented(text: str, known: list[str]) -> bool:
    pattern = re.compile(re.escape(text).replace(r"\*", ".*"))
    return any(pattern.fullmatch(each) or (each.endswith("…") and text.startswith(each[:-2])) for each in known)


def test_every_warning_and_error_is_documented() -> None:
    known = documented()
    found = list(warnings())
    assert len(found) > 40
    assert [f"{place}: {text}" for place, text in found if not is_documented(text, known)] == []


def test_nothing_is_documented_that_is_not_logged() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "certstream").rglob("*.py")))
    joined = re.sub(r'"\s*\n\s*"', "", source)  # texts over several lines
    logged = [text for _, text in warnings()]
    for each in documented():
        text = each.removesuffix("…").removeprefix("…").strip()
        made = any(re.fullmatch(re.escape(one).replace(r"\*", ".*"), each) for one in logged if one != "*")
        assert made or text in joined, each
