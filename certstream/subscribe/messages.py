"""`certstream.messages`: a stream as an asynchronous iterator."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from certstream.errors import StreamError, StreamRefusedError
from certstream.subscribe.connection import Opened
from certstream.subscribe.follow import Event, Lost, follow
from certstream.subscribe.options import MAX_MESSAGE_BYTES, ConnectOptions

logger = logging.getLogger("certstream.client")


def messages(
    url: str,
    *,
    token: str | None = None,
    skip_heartbeats: bool = True,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> AsyncGenerator[dict[str, Any], None]:
    """Iterate over the messages of a stream, each a dict as docs/stream-contract.md describes it.

    A connection that ends is made again: after 1 s, then up to 30 s, or as the server asks; that goes to the logger
    `certstream.client`. What was streamed meanwhile does not come again. Little is held in memory: who iterates slowly
    is cut off by the server once its bound for a client is reached, and connected again.

    Leaving the loop, `aclose()` and cancelling the task close the connection. The proxy is that of the environment
    (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`) unless given. A message above `max_message_bytes` ends its connection.

    Raises ValueError at once for an address, token or proxy that cannot be; while iterating StreamRefusedError where
    trying again would not help (wrong token, no such stream, certificate not trusted) and StreamError for a message
    that is no JSON object.
    """
    options = ConnectOptions(
        url=url,
        token=token,
        headers=headers or {},
        ssl_context=ssl_context,
        proxy=proxy,
        max_message_bytes=max_message_bytes,
    )
    return _messages(options, skip_heartbeats)


async def _messages(options: ConnectOptions, skip_heartbeats: bool) -> AsyncGenerator[dict[str, Any], None]:
    """A task holds the connection, and is not waited for where this is cancelled.

    A program that leaves the loop and ends at once has the generator closed by a task that is cancelled before it
    began. What then waits for anything while it is closed is broken off and closed again (Python 3.11 and 3.12).
    """
    taken: asyncio.Queue[Event | Exception] = asyncio.Queue(maxsize=1)
    reading = asyncio.create_task(_read(options, taken), name=f"certstream {options.shown}")
    cancelled = False
    try:
        while True:
            event = await taken.get()
            if isinstance(event, bytes):
                message = parse_message(event)
                if not (skip_heartbeats and is_heartbeat(message)):
                    yield message
            elif isinstance(event, Exception):
                raise event
            else:
                report(event)
    except asyncio.CancelledError:
        cancelled = True
        raise
    finally:
        if not reading.cancelling():  # twice would break off its goodbye
            reading.cancel()
        if not cancelled:
            await asyncio.wait([reading])


async def _read(options: ConnectOptions, taken: asyncio.Queue[Event | Exception]) -> None:
    """Put what comes, and in the end why nothing more does; as long as nobody takes it the server is not read."""
    try:
        async with aclosing(follow(options)) as events:
            async for event in events:
                await taken.put(event)
    except Exception as exc:  # noqa: BLE001 - raised where it is iterated
        await taken.put(exc)


def report(event: Opened | Lost) -> None:
    """Log that a connection stands or ended. Raises its error where another attempt would not help."""
    if isinstance(event, Opened):
        logger.info("connected to %s", event.url)
    elif isinstance(event.error, StreamRefusedError):
        raise event.error
    else:
        logger.warning("%s; connecting again in %.1f s", event.error, event.retry_in_s)


def parse_message(data: bytes | str) -> dict[str, Any]:
    """Read a message; StreamError for what is no JSON object, or is nested more deeply than the interpreter reads."""
    try:
        message = json.loads(data)
    except RecursionError as exc:
        raise StreamError(f"a message that is nested too deeply: {data[:80]!r}") from exc
    except ValueError as exc:
        raise StreamError(f"a message that is no JSON: {data[:80]!r}") from exc
    if not isinstance(message, dict):
        raise StreamError(f"a message that is no JSON object: {data[:80]!r}")
    return message


def is_heartbeat(message: Mapping[str, Any]) -> bool:
    """Whether the message is nothing but a sign of life."""
    return message.get("message_type") == "heartbeat"
