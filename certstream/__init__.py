"""certstream: Certificate Transparency logs as a live stream and an archive.

For readers of streams there are `messages` and, for code that was written for the client package of the same name,
`listen_for_events` and `core`. Each is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from certstream import core
    from certstream.core import listen_for_events
    from certstream.errors import StreamError, StreamRefusedError
    from certstream.subscribe.messages import messages

__all__ = ["StreamError", "StreamRefusedError", "__version__", "core", "listen_for_events", "messages"]

__version__ = "0.1.0"

_EXPORTS: Final = {
    "StreamError": "certstream.errors",
    "StreamRefusedError": "certstream.errors",
    "listen_for_events": "certstream.core",
    "messages": "certstream.subscribe.messages",
}


def __getattr__(name: str) -> Any:
    if name == "core":
        return import_module("certstream.core")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
