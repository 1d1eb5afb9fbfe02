"""What the library websocket-client calls its options (`WebSocketApp.run_forever`), as ours."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from yarl import URL

from certstream.subscribe.options import PING_INTERVAL_S, PING_TIMEOUT_S, ConnectOptions, SocketOption

_SSL_OPTIONS: Final = frozenset(
    {"ca_cert_path", "ca_certs", "cert_chain", "cert_reqs", "certfile", "check_hostname", "ciphers", "context",
     "do_handshake_on_connect", "ecdh_curve", "keyfile", "password", "server_hostname", "ssl_version",
     "suppress_ragged_eofs"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The arguments of `run_forever`, by their names there.

    Without meaning here, and accepted: `ping_payload`, `http_proxy_timeout` (the whole connection has a limit),
    `skip_utf8_validation`, `suppress_origin` (none is sent unless given), `suppress_host`.
    """

    sockopt: Collection[SocketOption] | None = None
    sslopt: Mapping[str, Any] | None = field(default=None, repr=False)
    ping_interval: float | None = PING_INTERVAL_S  # seconds of silence, 0 for no pings
    ping_timeout: float | None = None  # seconds
    ping_payload: str = ""
    http_proxy_host: str | None = None
    http_proxy_port: int | str | None = None
    http_no_proxy: Collection[str] | None = None
    http_proxy_auth: tuple[str | None, str | None] | None = field(default=None, repr=False)
    http_proxy_timeout: float | None = None
    skip_utf8_validation: bool = False
    host: str | None = None
    origin: str | None = None
    dispatcher: None = None
    suppress_origin: bool = False
    suppress_host: bool = False
    proxy_type: str | None = None
    reconnect: float | None = None  # seconds between connections

    def connect_options(
        self, url: str, token: str | None = None, headers: Mapping[str, str] | None = None
    ) -> ConnectOptions:
        """The same as ours. Raises ValueError for what there is no way to do, OSError for a file that is missing."""
        if self.dispatcher is not None:
            raise ValueError("a dispatcher is not supported")
        if self.proxy_type not in (None, "http"):
            raise ValueError(f"proxies of the type {self.proxy_type!r} are not supported, only http")
        ssl_options = self.sslopt or {}
        given = {"Host": self.host, "Origin": self.origin}
        return ConnectOptions(
            url=url,
            token=token,
            headers={**(headers or {}), **{name: value for name, value in given.items() if value}},
            ssl_context=_ssl_context(ssl_options) if ssl_options else None,
            server_hostname=ssl_options.get("server_hostname"),
            proxy=self._proxy(),
            no_proxy=tuple(self.http_no_proxy or ()),
            socket_options=tuple(self.sockopt or ()),
            ping_interval_s=self.ping_interval or 0.0,
            ping_timeout_s=self.ping_timeout or PING_TIMEOUT_S,
        )

    def _proxy(self) -> str | None:
        if not self.http_proxy_host:
            return None
        if not self.http_proxy_port:
            raise ValueError("http_proxy_host needs http_proxy_port")
        user, password = self.http_proxy_auth or (None, None)
        host, port = self.http_proxy_host, int(self.http_proxy_port)
        return str(URL.build(scheme="http", user=user, password=password, host=host, port=port))


def _ssl_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """The context that `sslopt` describes: as there, certificates are checked unless it says otherwise."""
    if unknown := options.keys() - _SSL_OPTIONS:
        raise ValueError(f"sslopt knows no {', '.join(sorted(unknown))}")
    context: ssl.SSLContext | None = options.get("context")
    if context is not None:
        return context
    context = ssl.create_default_context(cafile=options.get("ca_certs"), capath=options.get("ca_cert_path"))
    cert_reqs = options.get("cert_reqs", ssl.CERT_REQUIRED)
    context.check_hostname = options.get("check_hostname", cert_reqs != ssl.CERT_NONE)
    context.verify_mode = cert_reqs
    if options.get("certfile"):
        context.load_cert_chain(options["certfile"], options.get("keyfile"), options.get("password"))
    if options.get("cert_chain"):
        context.load_cert_chain(*options["cert_chain"])
    if options.get("ciphers"):
        context.set_ciphers(options["ciphers"])
    if options.get("ecdh_curve"):
        context.set_ecdh_curve(options["ecdh_curve"])
    return context
