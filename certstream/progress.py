"""How far a long piece of work is: a live display on a terminal, otherwise a line in the log now and then."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, TextIO

import structlog

from certstream.terminal import cells_of, cut_to, printable

LOG_INTERVAL_S: Final = 10.0
DRAW_INTERVAL_S: Final = 0.25
_SAMPLE_S: Final = 1.0
_RATE_S: Final = 15.0  # that a rate is measured over: the last seconds, or since the sample before
_NAME_CELLS: Final = 32
_BAR_CELLS: Final = range(10, 41)
_UNKNOWN_SIZE: Final = (80, 24)

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class ProgressClock(Protocol):
    """Where time comes from; certstream.client.clock.Clock is one."""

    @property
    def monotonic(self) -> Callable[[], float]:
        """Seconds, never backwards."""

    @property
    def sleep(self) -> Callable[[float], Awaitable[None]]:
        """Waits for seconds."""


@dataclass(frozen=True, slots=True)
class _SystemClock:
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Progress:
    """How much of each of some named totals is done.

    On a terminal (`stream`) `run` shows a display of all of them, redrawn in place at most four times a second: log
    lines that the root logger's handlers write to the same stream stand whole above it. Elsewhere, or with
    `live=False`, `run` logs "<title> progress" every ten seconds. `close` leaves the display as it was last.
    """

    def __init__(
        self,
        title: str,
        totals: Mapping[str, int],
        stream: TextIO,
        clock: ProgressClock | None = None,
        *,
        unit: str = "entries",
        live: bool = True,
    ) -> None:
        self._title = title
        self._event = f"{title} progress"
        self._unit = unit
        self._clock = clock or _SystemClock()
        now = self._clock.monotonic()
        self._meters = {name: _Meter(name, total, now) for name, total in totals.items()}
        self._whole = _Meter(title, sum(totals.values()), now)
        self._terminal = _Terminal(stream) if live and _is_terminal(stream) else None

    @property
    def done(self) -> int:
        """Done of all totals together."""
        return self._whole.done

    def advance(self, name: str, count: int) -> None:
        """Count `count` more as done of the total `name`; from any thread, but always the same one."""
        self._meters[name].done += count
        self._whole.done += count

    async def run(self) -> None:
        """Show or log how far it is, until cancelled."""
        if self._terminal is None:
            while True:
                await self._clock.sleep(LOG_INTERVAL_S)
                self._log()
        while True:
            self._draw(self._terminal)
            await self._clock.sleep(DRAW_INTERVAL_S)

    def close(self) -> None:
        """Show how far it came, for the last time; what is written to the stream from now on follows below."""
        if self._terminal is not None and self._terminal.used:
            self._draw(self._terminal)
            self._terminal.release()

    def _log(self) -> None:
        now, whole = self._clock.monotonic(), self._whole
        self._sample(now)
        remaining_s = whole.remaining_s(now)
        figures = {
            "done": whole.done,
            "total": whole.total,
            f"{self._unit}_per_s": round(whole.rate(now)),
            "remaining_s": None if remaining_s is None else round(remaining_s),
        }
        logger.info(self._event, **figures)

    def _draw(self, terminal: _Terminal) -> None:
        now = self._clock.monotonic()
        self._sample(now)
        columns, rows = terminal.size()
        terminal.draw(self._lines(now, columns - 1, rows - 1))

    def _sample(self, now: float) -> None:
        for meter in (*self._meters.values(), self._whole):
            meter.sample(now)

    def _lines(self, now: float, width: int, most: int) -> list[str]:
        """The display: at most `most` lines of at most `width` cells, the total last."""
        room = max(0, most - 1)
        shown: Sequence[_Meter] = list(self._meters.values())
        more = []
        if len(shown) > room:
            more = [f"and {len(shown) - max(0, room - 1)} more"][:room]
            shown = sorted(shown, key=lambda meter: meter.rate(now), reverse=True)[: max(0, room - 1)]
        names = _columns([meter.name for meter in shown])
        lines = [_bar_line(name, meter, now, width) for name, meter in zip(names, shown, strict=True)]
        return [cut_to(line, width) for line in (*lines, *more, self._total_line(now))][: max(most, 0)]

    def _total_line(self, now: float) -> str:
        whole = self._whole
        figures = f"{whole.done:,} of {whole.total:,} {self._unit}, {whole.percent} %, {whole.rate(now):,.0f}/s"
        return f"{self._title}: {figures}, {_duration(whole.remaining_s(now))} left"


class _Meter:
    """One total, what is done of it, and how fast it went lately."""

    def __init__(self, name: str, total: int, now: float) -> None:
        self.name = printable(name)
        self.total = total
        self.done = 0
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    @property
    def percent(self) -> int:
        return 100 if self.done >= self.total else self.done * 100 // self.total

    def sample(self, now: float) -> None:
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, self.done))
            while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_S:
                self._samples.popleft()

    def rate(self, now: float) -> float:
        """Per second."""
        since, done = self._samples[0]
        return (self.done - done) / (now - since) if now > since else 0.0

    def remaining_s(self, now: float) -> float | None:
        """Seconds; None while nothing moves."""
        left, rate = max(0, self.total - self.done), self.rate(now)
        if not left:
            return 0.0
        return left / rate if rate > 0 else None


class _Terminal:
    """Lines at the end of a terminal's output, drawn over in place; what others write stands above them.

    Any thread may write. A terminal that is gone is left alone.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._lines: list[str] = []  # as they stand there
        self._mid_line = False  # others wrote half a line
        self._handlers: list[logging.StreamHandler[Any]] = []
        self.used = False

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        with suppress(OSError, ValueError):
            columns, rows = os.get_terminal_size(self._stream.fileno())
            if columns > 0 and rows > 0:
                return columns, rows
        return _UNKNOWN_SIZE

    def draw(self, lines: list[str]) -> None:
        """Put these lines in the place of those that stand there."""
        if not self.used:
            self.used = True
            self._take_over_logging()
        with self._lock:
            if self._mid_line:
                return
            text = self._back() + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"
            self._lines = lines
            with suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()

    def write_above(self, text: str) -> int:
        """Write what belongs to nobody's display. Raises what the stream raises."""
        with self._lock:
            clear = "" if self._mid_line else f"{self._back()}\x1b[J"
            self._mid_line = not text.endswith("\n")
            again = "" if self._mid_line else "".join(f"{line}\n" for line in self._lines)
            self._stream.write(clear + text + again)
            return len(text)

    def release(self) -> None:
        """Leave the lines where they are, and logging as it was."""
        for handler in self._handlers:
            handler.setStream(self._stream)
        self._handlers.clear()
        self._lines = []
        self.used = False

    def _take_over_logging(self) -> None:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._stream:
                handler.setStream(_Above(self, self._stream))
                self._handlers.append(handler)

    def _back(self) -> str:
        """To where the lines begin. A terminal that became narrower has broken them."""
        columns, _ = self.size()
        rows = sum(max(1, -(-cells_of(line) // columns)) for line in self._lines)
        return f"\r\x1b[{rows}A" if rows else ""


class _Above:
    """The stream as a log handler has it while a display stands at its end."""

    def __init__(self, terminal: _Terminal, stream: TextIO) -> None:
        self._terminal = terminal
        self._stream = stream

    def write(self, text: str) -> int:
        return self._terminal.write_above(text)

    def flush(self) -> None:
        self._stream.flush()


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _bar_line(name: str, meter: _Meter, now: float, width: int) -> str:
    figures = f"{meter.percent:3} %  {meter.rate(now):9,.0f}/s  {_duration(meter.remaining_s(now)):>8}"
    cells = min(_BAR_CELLS.stop - 1, width - cells_of(name) - len(figures) - 6)
    if cells < _BAR_CELLS.start:
        return f"{name}  {figures}"
    full = min(meter.done * cells // meter.total, cells) if meter.total else cells
    return f"{name}  [{'#' * full}{'.' * (cells - full)}]  {figures}"


def _duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; the unknown as dashes."""
    if seconds is None:
        return "-:--:--"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def _columns(names: Iterable[str]) -> list[str]:
    """The names, cut and filled to the same width."""
    cut = [cut_to(name, _NAME_CELLS) for name in names]
    width = max(map(cells_of, cut), default=0)
    return [name + " " * (width - cells_of(name)) for name in cut]
