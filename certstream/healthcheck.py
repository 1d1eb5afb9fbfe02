"""`certstream --healthcheck`: ask the service that runs beside it with the same configuration whether it is alive.

A container's health check calls this every half a minute: it loads the configuration and next to nothing else.
"""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from typing import Final

from certstream.config import Config
from certstream.errors import ConfigError

TIMEOUT_S: Final = 3.0  # for connecting, and again for each part of the answer

_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- what listens on all addresses is asked on this one
_ALIVE: Final = frozenset({200, 401, 429})  # what refuses for want of a token or for its rate is alive as well


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked."""

    host: str
    port: int
    path: str
    tls: bool
    alive: frozenset[int] | None  # the statuses that mean so; None: any, an answer is enough

    @property
    def url(self) -> str:
        """The same as people write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"


def target(config: Config) -> Target:
    """Return where the service of that configuration answers. Raises ConfigError where it cannot be known."""
    monitoring = config.monitoring
    name, host, port, tls = "port", config.host, config.port, config.tls_cert is not None
    if monitoring.port is not None and config.protocols.health:
        name, host, port, tls = "monitoring.port", monitoring.host, monitoring.port, tls and monitoring.tls
    if port == 0:
        raise ConfigError(f"{name}: 0 is whichever was free when the service started, a health check needs a fixed one")
    host = _ANY.get(host, host)
    if config.protocols.health:
        return Target(host, port, "/health", tls, _ALIVE)
    return Target(host, port, "/", tls, None)


def healthcheck(config: Config, *, timeout_s: float = TIMEOUT_S) -> int:
    """Ask once and print one line; the exit code: 0 alive, 1 not.

    Raises ConfigError where the configuration does not say whom to ask.
    """
    asked = target(config)
    try:
        status = _status(asked, timeout_s)
    except TimeoutError:
        return _unhealthy(asked, f"no answer within {timeout_s:g} s")
    except OSError as exc:
        return _unhealthy(asked, exc.strerror or str(exc))
    except http.client.HTTPException as exc:
        return _unhealthy(asked, f"no HTTP answer ({type(exc).__name__})")
    if asked.alive is not None and status not in asked.alive:
        return _unhealthy(asked, f"status {status}")
    print(f"healthy: {asked.url} answers {status}")
    return 0


def _unhealthy(asked: Target, why: str) -> int:
    print(f"unhealthy: {asked.url}: {why}")
    return 1


def _status(asked: Target, timeout_s: float) -> int:
    connection = _connection(asked, timeout_s)
    try:
        connection.request("GET", asked.path, headers={"Connection": "close"})
        return connection.getresponse().status
    finally:
        connection.close()


def _connection(asked: Target, timeout_s: float) -> http.client.HTTPConnection:
    if not asked.tls:
        return http.client.HTTPConnection(asked.host, asked.port, timeout=timeout_s)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate is for the name that clients use; and whoever could answer here
    context.verify_mode = ssl.CERT_NONE  # instead of the service has its address: there is nothing to protect
    return http.client.HTTPSConnection(asked.host, asked.port, timeout=timeout_s, context=context)
