"""Which stream to connect to, and how."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.request import getproxies, proxy_bypass

from yarl import URL

StreamKind: TypeAlias = Literal["lite", "full", "domains"]
SocketOption: TypeAlias = tuple[int, int, int | bytes]  # level, option, value, as socket.setsockopt takes them

MAX_MESSAGE_BYTES: Final = 16 << 20  # a certificate may have thousands of names, and its chain
PING_INTERVAL_S: Final = 30.0
PING_TIMEOUT_S: Final = 15.0
CONNECT_TIMEOUT_S: Final = 30.0

_PATHS: Final[dict[StreamKind, str]] = {"lite": "/", "full": "/full-stream", "domains": "/domains-only"}
_STREAM_PATH: Final = re.compile(r"(/full-stream|/domains-only)?/?$")
# What a proxy for the scheme may be called in the environment, first choice first
_PROXY_SCHEMES: Final = {"ws": ("ws", "http"), "wss": ("wss", "https")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Everything about a connection; the address alone is enough. Raises ValueError for what can never work."""

    url: str
    token: str | None = field(default=None, repr=False)  # goes out as `Authorization: Bearer`
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ssl_context: ssl.SSLContext | None = None  # None: the system's certification authorities
    server_hostname: str | None = None  # that TLS asks for and checks, None: that of the URL
    proxy: str | None = field(default=None, repr=False)  # None: what the environment says
    no_proxy: Collection[str] = ()  # hosts that are asked directly, beside those of the environment
    socket_options: Collection[SocketOption] = ()
    ping_interval_s: float = PING_INTERVAL_S  # of silence until a ping goes out, 0 for never
    ping_timeout_s: float = PING_TIMEOUT_S  # of silence after it until the connection counts as lost
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    max_message_bytes: int = MAX_MESSAGE_BYTES  # after decompression; a larger one ends the connection

    def __post_init__(self) -> None:
        url = _parsed(self.url)
        if self.token is not None:
            _check_token(self.token, url)
        if self.proxy is not None:
            _check_proxy(self.proxy)

    @property
    def address(self) -> URL:
        """The address, its scheme `ws` or `wss`."""
        return _parsed(self.url)

    @property
    def shown(self) -> str:
        """The address as it may be shown: without user, password and query, which may hold a token."""
        return shown_url(self.url)

    def effective_proxy(self) -> URL | None:
        """The proxy to use. Raises ValueError where the environment names one that is not spoken."""
        host = self.address.host or ""
        if host in self.no_proxy or (self.proxy is None and proxy_bypass(host)):
            return None
        if self.proxy is not None:
            return _check_proxy(self.proxy)
        configured = getproxies()
        found = [configured[name] for name in _PROXY_SCHEMES[self.address.scheme] if configured.get(name)]
        return _check_proxy(found[0]) if found else None


def shown_url(url: str) -> str:
    """The address without user, password, query and fragment."""
    return str(_parsed(url).with_user(None).with_query(None).with_fragment(None))


def stream_url(url: str, kind: StreamKind) -> str:
    """The address of that stream on the server that serves `url`, which may name another stream of it, or a prefix."""
    address = _parsed(url)
    prefix = _STREAM_PATH.sub("", address.path)
    return str(address.with_path(prefix + _PATHS[kind], keep_query=True))


def _parsed(url: str) -> URL:
    schemes = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
    try:
        address = URL(url)
        known = address.scheme in schemes and bool(address.host)
    except (TypeError, ValueError):
        known = False
    if not known:
        raise ValueError("the address of a stream is ws://host:port/ or wss://host/")
    return address.with_scheme(schemes[address.scheme]).with_fragment(None)


def _check_token(token: str, url: URL) -> None:
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ValueError("a token is visible ASCII without spaces")
    if url.user is not None:
        raise ValueError("either a token or a user in the address, not both")


def _check_proxy(text: str) -> URL:
    proxy = URL(text if "://" in text else f"http://{text}")
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ValueError(f"proxies of the scheme {proxy.scheme!r} are not supported, only http and https")
    return proxy


def set_socket_options(sock: socket.socket, options: Collection[SocketOption]) -> None:
    """Apply them to a socket that is not connected yet; OSError where the system refuses."""
    for level, option, value in options:
        sock.setsockopt(level, option, value)
