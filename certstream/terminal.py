"""How much room text takes on a terminal."""

from __future__ import annotations

import unicodedata


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


def _cells(character: str) -> int:
    return 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
