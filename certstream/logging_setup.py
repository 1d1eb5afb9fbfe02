"""Where log lines go and what they look like: structlog and the standard library's loggers, one stream, one form."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from certstream.config.levels import Level


def setup_logging(level: Level, form: Literal["console", "json"], stream: TextIO | None = None) -> None:
    """Write log lines of `level` and above to `stream` (stderr): as text for people, or one JSON object each.

    Other packages' loggers (asyncio, aiohttp) and Python's warnings come out the same way, from `warning` upwards.
    Calling it again replaces the earlier set-up.
    """
    stream = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # loggers live in modules, which are imported before this is called
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(form, stream)],
    )
    _attach(logging.getLevelNamesMapping()[level.upper()], formatter, stream)


def _rendering(form: Literal["console", "json"], stream: TextIO) -> list[Processor]:
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback)
    return [_escape, console]


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write control characters out: what a log's server answered must not move the cursor of a terminal."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = _escaped(value)
    return event


def _traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    """Likewise in the text of an exception, but for the ends of its lines."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write("\n".join(_escaped(line) for line in text.getvalue().split("\n")))


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _attach(level: int, formatter: logging.Formatter, stream: TextIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("certstream").setLevel(level)
    logging.captureWarnings(capture=True)
