"""What the client package `certstream` of PyPI (1.12) offers under this name, for code that was written for it.

New code has `certstream.messages`.
"""

from __future__ import annotations

import inspect
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from certstream.client.clock import Clock
from certstream.errors import StreamError
from certstream.subscribe.bridge import Bridge
from certstream.subscribe.connection import Opened, stream
from certstream.subscribe.follow import Backoff
from certstream.subscribe.messages import is_heartbeat
from certstream.subscribe.options import ConnectOptions
from certstream.subscribe.websocket_client import RunOptions

certstream_logger = logging.getLogger("certstream")

_PING_INTERVAL_S: Final = 15.0
_NORMAL_CLOSURES: Final = frozenset({1000, 1001})  # RFC 6455 §7.4.1; a server that is stopped says 1001

MessageCallback: TypeAlias = Callable[[dict[str, Any], "Context"], object]
Handler: TypeAlias = Callable[..., object]


class Context(dict[str, Any]):
    """What callbacks are given beside the message: a dict whose keys are attributes too, None where there is none.

    There is one for all; it is theirs to keep things in.
    """

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


class CertStreamClient:
    """A connection to a stream whose messages go to a callback, in the thread that calls `run_forever`.

    `on_open` is called without arguments, `on_error` with the exception; handlers that take the client before that, as
    the documentation of the other package has it, get it. `_on_open`, `_on_message` and `_on_error` may be overridden.
    """

    _context = Context()

    def __init__(
        self,
        message_callback: MessageCallback,
        url: str,
        skip_heartbeats: bool = True,
        on_open: Handler | None = None,
        on_error: Handler | None = None,
        *,
        token: str | None = None,
    ) -> None:
        self.message_callback = message_callback
        self.url = url
        self.skip_heartbeats = skip_heartbeats
        self.on_open_handler = on_open
        self.on_error_handler = on_error
        self.header: Mapping[str, str] | Sequence[str] | None = None  # further headers, the latter as "Name: value"
        self.keep_running = False
        self._token = token
        # Assigned once, as there: what is put in the place of the methods later has no effect
        self._hooks: dict[str, Handler] = {
            "open": self._on_open,
            "message": self._on_message,
            "error": self._on_error,
        }
        self._backoff = Backoff(Clock())
        self._asked_s: float | None = None  # until the next connection, by the server's last answer
        self._closing = threading.Event()
        self._bridge: Bridge[Opened | bytes] | None = None

    def run_forever(self, **options: Any) -> bool:
        """Connect, and return when the connection has ended: whether by an error.

        Takes the options of websocket-client's `run_forever`, see RunOptions; with `reconnect` it returns only after
        `close`. Raises ValueError and TypeError for options that cannot be, and what is no `Exception`, such as
        KeyboardInterrupt, if a callback raises it.
        """
        run_options = RunOptions(**options)
        connect_options = run_options.connect_options(self.url, self._token, _headers(self.header))
        self.keep_running = True
        self._closing.clear()
        failed = self._run_once(connect_options, silent=bool(run_options.reconnect))
        while run_options.reconnect and self.keep_running:
            self._closing.wait(run_options.reconnect)
            if self.keep_running:
                failed = self._run_once(connect_options, silent=True)
        self.keep_running = False
        return failed

    def close(self, **_: Any) -> None:
        """End the connection, from any thread or callback; `run_forever` returns soon after."""
        self.keep_running = False
        self._closing.set()
        bridge = self._bridge
        if bridge is not None:
            bridge.close()

    def _pause_s(self) -> float:
        """Seconds that are good to wait now that the connection has ended."""
        return self._backoff.delay_s(self._asked_s)

    def _run_once(self, options: ConnectOptions, *, silent: bool) -> bool:
        self._asked_s = None
        with Bridge(lambda: stream(options), _size) as bridge:
            self._bridge = bridge
            if not self.keep_running:  # closed before there was anything to close
                return False
            try:
                for batch in bridge:
                    for event in batch:
                        if not self.keep_running:
                            return False
                        self._take(event)
            except StreamError as exc:
                self._asked_s = exc.retry_after_s
                self._ended(exc, silent=silent)
                return exc.code is None
            finally:
                self._bridge = None
        return False

    def _take(self, event: Opened | bytes) -> None:
        if isinstance(event, bytes):
            self._call("message", event.decode(errors="replace"))
        else:
            self._backoff.opened()
            self._call("open")

    def _ended(self, error: StreamError, *, silent: bool) -> None:
        if error.code in _NORMAL_CLOSURES or silent:
            certstream_logger.info("%s", error)
        else:
            self._call("error", error)

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a hook; what it raises is an error of the stream, which goes on."""
        try:
            self._hooks[name](self, *arguments)
        except Exception as exc:  # any code may be behind it
            certstream_logger.exception("error in the callback for %s", name)
            if name != "error":
                self._call("error", exc)

    def _on_open(self, _client: CertStreamClient) -> None:
        certstream_logger.info("Connection established to CertStream! Listening for events...")
        if self.on_open_handler:
            _call_handler(self.on_open_handler, self)

    def _on_message(self, _client: CertStreamClient, message: str) -> None:
        frame = json.loads(message)
        if self.skip_heartbeats and is_heartbeat(frame):
            return
        self.message_callback(frame, self._context)

    def _on_error(self, _client: CertStreamClient, ex: Exception) -> None:
        if self.on_error_handler:
            _call_handler(self.on_error_handler, self, ex)
        certstream_logger.error("Error in the stream: %s", ex)


def listen_for_events(
    message_callback: MessageCallback,
    url: str,
    skip_heartbeats: bool = True,
    setup_logger: bool = True,
    on_open: Handler | None = None,
    on_error: Handler | None = None,
    *,
    token: str | None = None,
    **kwargs: Any,
) -> None:
    """Call `message_callback(message, context)` for each message, without end; Ctrl+C ends it.

    A connection that ends is made again: after 1 s, then up to 30 s, or as the server or `reconnect` says. Callbacks
    are called in this thread, one at a time. What one raises goes to `on_error` and the logger `certstream`, and the
    next message comes. `setup_logger` has no effect, as in the package that this is for. `token` goes out as
    `Authorization: Bearer`; for `kwargs` see RunOptions.

    Raises ValueError and TypeError for an address or options that cannot be.
    """
    if certstream_logger.level == logging.NOTSET:
        certstream_logger.setLevel(logging.INFO)
    client = CertStreamClient(message_callback, url, skip_heartbeats, on_open, on_error, token=token)
    options = {"ping_interval": _PING_INTERVAL_S, **kwargs}
    try:
        while True:
            client.run_forever(**options)
            delay_s = client._pause_s()
            certstream_logger.info("Connecting to CertStream again in %.1f s", delay_s)
            time.sleep(delay_s)
    except KeyboardInterrupt:
        certstream_logger.info("Kill command received, exiting!!")


def _call_handler(handler: Handler, client: CertStreamClient, *arguments: Any) -> None:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # some that are written in C have none
        handler(*arguments)
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        handler(client, *arguments)
    else:
        handler(*arguments)


def _headers(given: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if isinstance(given, Mapping):
        return dict(given)
    pairs = [line.partition(":") for line in given or ()]
    return {name.strip(): value.strip() for name, _, value in pairs}


def _size(event: Opened | bytes) -> int:
    return len(event) if isinstance(event, bytes) else 0
