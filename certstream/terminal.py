"""What text does to a terminal: the room it takes, and what it could steer."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def cells_of(text: str) -> int:
    """How many cells of a terminal the text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut_to(text: str, most: int) -> str:
    """What of the text fits into so many cells, from its beginning."""
    if text.isascii():
        return text[: max(most, 0)]
    taken = 0
    for position, character in enumerate(text):
        taken += _cells(character)
        if taken > most:
            return text[:position]
    return text


def printable(text: str) -> str:
    """The text with a question mark for each character that could steer a terminal, or show nothing."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def aligned(rows: Sequence[tuple[str, ...]], *, figures_from: int | None = None) -> str:
    """Lines with columns of equal width, two spaces between them; those from `figures_from` on stand to the right."""
    widths = [max(map(cells_of, column)) for column in zip(*rows, strict=True)]
    return "".join(f"{_line(row, widths, figures_from)}\n" for row in rows)


def _line(row: tuple[str, ...], widths: list[int], figures_from: int | None) -> str:
    cells = []
    for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
        room = " " * (width - cells_of(cell))
        cells.append(cell + room if figures_from is None or at < figures_from else room + cell)
    return "  ".join(cells).rstrip()


def _cells(character: str) -> int:
    return 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
