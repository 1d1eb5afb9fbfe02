"""`certstream tail`: follow a stream, print what comes, until nobody reads it any more."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, TextIO

from certstream.errors import ConfigError, StreamError, StreamRefusedError
from certstream.subscribe.bridge import Bridge
from certstream.subscribe.connection import Opened
from certstream.subscribe.follow import Event, Lost, follow
from certstream.subscribe.messages import is_heartbeat, parse_message
from certstream.tail.flags import TailFlags
from certstream.tail.lines import Format, PersonFormat, json_line, names_of, safe_json_line

_UNKNOWN_WIDTH: Final = 80
_GATHERED_BYTES: Final = 1 << 20


def tail(flags: TailFlags, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Print a stream until who reads `out` has gone: 0; or until the server refuses it: 1, and why on `err`."""
    out, err = out or sys.stdout, err or sys.stderr
    if out is None:
        raise ConfigError("certstream tail: there is no standard output")
    printer = _Printer(out.fileno(), _format(flags, out), flags.match)
    with Bridge(lambda: follow(flags.connect), _size) as bridge:
        try:
            for batch in bridge:
                _print(batch, printer, err, verbose=flags.verbose)
        except BrokenPipeError:
            return 0
        except StreamError as exc:
            _say(str(exc), err)
        except OSError as exc:
            _say(f"the output cannot be written: {exc.strerror}", err)
    return 1


def _say(text: str, err: TextIO) -> None:
    with suppress(OSError):  # nobody reads that either
        print(f"certstream tail: {text}", file=err, flush=True)


def _print(batch: Iterable[Event], printer: _Printer, err: TextIO, *, verbose: bool) -> None:
    for event in batch:
        if isinstance(event, bytes):
            if printer.add(event) and verbose:
                _say("heartbeat", err)
        else:
            printer.flush()
            _tell(event, err)
    printer.flush()


def _tell(event: Opened | Lost, err: TextIO) -> None:
    """Say what happens to the connection. Raises its error where another attempt would not help."""
    if isinstance(event, Opened):
        _say(f"following {event.url}", err)
    elif isinstance(event.error, StreamRefusedError):
        raise event.error
    else:
        _say(f"{event.error}; again in {event.retry_in_s:.1f} s", err)


class _Printer:
    """Writes messages in whole lines, many at once; waits for whoever reads them, and notices when nobody does.

    Bound: of what came at once about a megabyte is gathered, then written. Raises BrokenPipeError, OSError.
    """

    def __init__(self, fd: int, to_text: Format, match: str | None) -> None:
        self._fd = fd
        self._to_text = to_text
        self._match = match
        self._pending = bytearray()
        self._gone = select.poll()
        self._gone.register(fd, 0)  # that nobody reads is told in any case
        self._ready = select.poll()
        self._ready.register(fd, select.POLLOUT)

    def add(self, data: bytes) -> bool:
        """Take a message; whether it was a heartbeat. Raises StreamError for what is no message."""
        message = parse_message(data)
        if is_heartbeat(message):
            return True
        if self._match is None or any(self._match in name.lower() for name in names_of(message)):
            self._pending += self._to_text(data, message).encode(errors="replace")
            if len(self._pending) >= _GATHERED_BYTES:
                self.flush()
        return False

    def flush(self) -> None:
        """Write what was taken. Without anything to write, look whether anybody would read it."""
        if not self._pending and any(state & (select.POLLERR | select.POLLHUP) for _, state in self._gone.poll(0)):
            raise BrokenPipeError
        with memoryview(bytes(self._pending)) as text:
            self._pending.clear()
            written = 0
            while written < len(text):
                try:
                    written += os.write(self._fd, text[written:])
                except BlockingIOError:  # who shares it with us made it so
                    self._ready.poll()


def _format(flags: TailFlags, out: TextIO) -> Format:
    if not out.isatty():
        return json_line
    if flags.json:
        return safe_json_line
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"  # https://no-color.org
    return PersonFormat(lambda: _width(out.fileno()), color=flags.color and not plain, whole=flags.whole)


def _width(fd: int) -> int:
    try:
        return os.get_terminal_size(fd).columns or _UNKNOWN_WIDTH
    except OSError:
        return _UNKNOWN_WIDTH


def _size(event: Event) -> int:
    return len(event) if isinstance(event, bytes) else 0
