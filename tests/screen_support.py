"""A terminal that a test looks at, and a clock that it moves."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import struct
import termios
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TextIO

_SEQUENCE = re.compile(r"\x1b\[(\d*)([A-Z])")


class Screen:
    """A terminal: a pty that programs write to, and what a person sees on it, scrolled away lines included."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self._ours, theirs = os.openpty()
        self._theirs = theirs
        self.resize(columns, rows)
        self.stream: TextIO = os.fdopen(theirs, "w")
        self._cells: list[str] = [""]  # every line since the beginning
        self._row = self._column = 0
        self._arrived: SimpleQueue[bytes] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="screen")  # a pty holds 4 KB, then writers wait
        self._reader.start()

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def lines(self) -> list[str]:
        """All lines, after reading what was written up to now."""
        self.stream.flush()
        self.stream.write("\0")  # where we are
        self.stream.flush()
        data = b""
        while not data.endswith(b"\0"):
            data += self._arrived.get(timeout=10)
        self._feed(data[:-1].decode())
        return [line.rstrip() for line in self._cells[: self._row + 1]]

    def close(self) -> None:
        self.stream.close()
        self._reader.join()
        os.close(self._ours)

    def _read(self) -> None:
        with suppress(OSError):  # that is how the other end's closing shows
            while data := os.read(self._ours, 65536):
                self._arrived.put(data)

    def _feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            if match := _SEQUENCE.match(text, at):
                self._control(int(match[1] or 1), match[2])
                at = match.end()
                continue
            self._put(text[at])
            at += 1

    def _control(self, count: int, kind: str) -> None:
        if kind == "A":
            top = max(0, len(self._cells) - self.rows)
            assert self._row - count >= top, "what scrolled away cannot be reached"
            self._row -= count
        elif kind == "K":
            self._cells[self._row] = self._cells[self._row][: self._column]
        elif kind == "J":
            self._cells[self._row] = self._cells[self._row][: self._column]
            del self._cells[self._row + 1 :]
        else:
            raise AssertionError(f"unknown sequence {kind}")

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._down()
        else:
            if self._column == self.columns:
                self._column = 0
                self._down()
            line = self._cells[self._row].ljust(self._column)
            self._cells[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._cells):
            self._cells.append("")


class Time:
    """A clock that tests move; each sleep ends when `pass_` has moved it far enough."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.slept: list[float] = []
        self._sleeping: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        future = asyncio.get_running_loop().create_future()
        self._sleeping.append((self.now_s + delay_s, future))
        await future

    async def pass_(self, seconds: float) -> None:
        self.now_s += seconds
        due = [future for at, future in self._sleeping if at <= self.now_s]
        self._sleeping = [each for each in self._sleeping if each[0] > self.now_s]
        for future in due:
            future.set_result(None)
        for _ in range(3):
            await asyncio.sleep(0)
