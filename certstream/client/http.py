"""HTTP to the logs: one session for all, capped bodies, bounded waits, each operator at its pace.

Whatever goes wrong ends as FetchError that names the log and the URL; a 429 as RateLimitedError, which also
slows the operator's pace.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, TypeVar
from urllib.request import getproxies

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from certstream import __version__
from certstream.client.clock import Clock
from certstream.client.inflate import BodyBuffer
from certstream.client.names import NameResolver
from certstream.client.pacing import PaceSettings, Pacing
from certstream.client.waits import Waits
from certstream.ct.types import LogInfo
from certstream.errors import FetchError, RateLimitedError
from certstream.metrics import Metrics

JSON_CAP_BYTES: Final = 64 * 2**20
TILE_CAP_BYTES: Final = 16 * 2**20
SMALL_CAP_BYTES: Final = 2**20  # tree heads, checkpoints, issuers

DEFAULT_USER_AGENT: Final = f"certstream-server/{__version__} (+https://pypi.org/project/certstream-server/)"

_UNANSWERED: Final = frozenset({"timeout", "connection"})  # all other failures came with an answer, and not a 429
_READ_BUFFER_BYTES: Final = 2**20
_EXCERPT_CAP_BYTES: Final = 64 * 2**10  # of an error's body, read so that its connection lives on
_EXCERPT_CHARS: Final = 160  # of what a server sent, in the text of an error
_MAX_REDIRECTS: Final = 5
_KEEP_ALIVE_S: Final = 60.0  # above the longest idle poll, so that an idle log costs no handshakes
_DNS_TTL_S: Final = 60
_MAX_VALIDATOR: Final = 500  # characters of an ETag or a date that are worth keeping

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How requests to logs are made."""

    user_agent: str = DEFAULT_USER_AGENT  # product/version and a contact, an e-mail address or an https URL
    request_timeout_s: float = 30.0  # a whole request, connecting and body included
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 15.0  # without a byte
    # Answers in hand or in flight per operator, beyond one per log. A log that reads alone has at most `prefetch` + 1
    # requests in flight, whatever ReadSettings.fetch_concurrency says, and all together at most `pace.in_flight`.
    prefetch: int = 8
    pace: PaceSettings = field(default_factory=PaceSettings)


@dataclass(frozen=True, slots=True)
class Validators:
    """By what a server knows one version of a page (RFC 9110 §8.8), empty where it does not say."""

    etag: str = ""
    last_modified: str = ""

    @classmethod
    def of(cls, etag: str | None, last_modified: str | None) -> Validators:
        """Those that can be sent back."""
        return cls(_sendable(etag), _sendable(last_modified))

    @property
    def conditions(self) -> dict[str, str]:
        """The headers that ask for the page only where it is another version by now."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}


@dataclass(frozen=True, slots=True)
class Page:
    """One page, and its version."""

    body: bytes
    validators: Validators


class Prefetch:
    """Permits for requests made ahead of need, for all logs of an operator.

    With them, answers in memory are at most one per log and `permits` per operator. A log that finds none left goes
    on with one request at a time.
    """

    def __init__(self, permits: int) -> None:
        self._permits = self._left = permits

    def take(self) -> bool:
        """Take a permit if one is left."""
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """Return a permit that was taken."""
        self._left += 1

    def resize(self, permits: int) -> None:
        """Give so many permits from now on; those that were taken stay taken."""
        self._left += permits - self._permits
        self._permits = permits


class HttpClient:
    """GET requests to logs over one session; `async with` opens and closes it."""

    def __init__(self, settings: FetchSettings, metrics: Metrics, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.metrics = metrics
        self.pacing = Pacing(settings.pace, self.clock)
        self._prefetch: dict[str, Prefetch] = {}
        self._waits: dict[str, Waits] = {}  # by base_url: bounded by the logs that are ever read
        self._session: aiohttp.ClientSession | None = None
        self.apply(settings)

    def apply(self, settings: FetchSettings) -> None:
        """Make requests like this from now on; those in flight end as they began."""
        self._settings = settings
        self._headers = {"User-Agent": settings.user_agent}
        self._timeout = aiohttp.ClientTimeout(
            total=settings.request_timeout_s,
            sock_connect=settings.connect_timeout_s,
            sock_read=settings.stall_timeout_s,
        )
        self.pacing.apply(settings.pace)
        for prefetch in self._prefetch.values():
            prefetch.resize(settings.prefetch)

    async def __aenter__(self) -> HttpClient:
        proxies = getproxies()
        self._session = aiohttp.ClientSession(
            # Bounds are the pacers' business; here a limit would only queue one operator behind another.
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_KEEP_ALIVE_S, ttl_dns_cache=_DNS_TTL_S, resolver=NameResolver()
            ),
            headers={"Accept-Encoding": "gzip"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # BodyBuffer inflates, so that the cap holds for what comes out
            read_bufsize=_READ_BUFFER_BYTES,
            # It asks for proxy and netrc in a thread, for each request: only where there is a proxy.
            trust_env="http" in proxies or "https" in proxies,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def prefetch(self, operator: str) -> Prefetch:
        """Return the operator's permits; the same object each time."""
        return self._prefetch.setdefault(operator, Prefetch(self._settings.prefetch))

    def waits(self, log: LogInfo) -> Waits:
        """Return the account of what reading that log spends its time on; the same object each time."""
        return self._waits.setdefault(log.base_url, Waits(self.clock.monotonic))

    async def get(self, log: LogInfo, path: str, *, cap_bytes: int = SMALL_CAP_BYTES) -> bytes:
        """Return the body of `<base_url>/<path>`, inflated, at most `cap_bytes`.

        Waits for the operator's turn first. Raises FetchError, RateLimitedError for a 429.
        """
        url = f"{log.base_url}/{path}"
        pacer, waits = self.pacing.of(log.operator), self.waits(log)
        async with pacer.turn(waits) as admitted_at:
            try:
                with waits.on("answering"):
                    body = await self._fetch(url, cap_bytes)
            except RateLimitedError as exc:
                self.metrics.log_request(log.name, exc.status)
                pacer.limited(admitted_at, exc.retry_after_s)
                raise RateLimitedError(f"{log.name}: {url}: {exc}", retry_after_s=exc.retry_after_s) from exc
            except FetchError as exc:
                self.metrics.log_request(log.name, exc.status)
                if exc.status not in _UNANSWERED:
                    pacer.answered(admitted_at)
                raise FetchError(f"{log.name}: {url}: {exc}", status=exc.status) from exc
            self.metrics.log_request(log.name, "200")
            pacer.answered(admitted_at)
            return body

    async def get_page(self, url: str, *, cap_bytes: int, known: Validators = Validators()) -> Page | None:
        """Return what is at a URL that is no log's, inflated, at most `cap_bytes`; None where it is `known` still.

        No pace holds it back and no metric counts it. Raises FetchError, RateLimitedError for a 429.
        """
        try:
            return await self._ask(url, known.conditions, partial(self._read_page, known=known, cap_bytes=cap_bytes))
        except RateLimitedError as exc:
            raise RateLimitedError(f"{url}: {exc}", retry_after_s=exc.retry_after_s) from exc
        except FetchError as exc:
            raise FetchError(f"{url}: {exc}", status=exc.status) from exc

    async def _read_page(self, response: aiohttp.ClientResponse, *, known: Validators, cap_bytes: int) -> Page | None:
        if response.status == 304 and known.conditions:
            return None
        body = await self._read(response, cap_bytes)
        headers = response.headers
        return Page(body, Validators.of(headers.get("ETag"), headers.get("Last-Modified")))

    async def _fetch(self, url: str, cap_bytes: int) -> bytes:
        return await self._ask(url, {}, partial(self._read, cap_bytes=cap_bytes))

    async def _ask(
        self, url: str, headers: Mapping[str, str], read: Callable[[aiohttp.ClientResponse], Awaitable[T]]
    ) -> T:
        """What `read` makes of the answer."""
        if self._session is None:
            raise RuntimeError("the HTTP client is not open")
        try:
            async with self._session.get(
                url, max_redirects=_MAX_REDIRECTS, timeout=self._timeout, headers={**self._headers, **headers}
            ) as response:
                return await read(response)
        except TimeoutError as exc:
            raise FetchError(f"no answer in time ({exc or 'total'})", status="timeout") from exc
        except aiohttp.TooManyRedirects as exc:
            raise FetchError(f"more than {_MAX_REDIRECTS} redirects", status="redirect") from exc
        except (aiohttp.ClientPayloadError, HttpProcessingError) as exc:
            raise FetchError(f"broken body: {_reason(exc)}", status="body") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise FetchError(f"not reached: {_reason(exc)}", status="connection") from exc

    async def _read(self, response: aiohttp.ClientResponse, cap_bytes: int) -> bytes:
        if any(hop.url.scheme == "https" for hop in response.history) and response.url.scheme != "https":
            raise FetchError("redirected from https to plain http", status="redirect")
        if response.status == 200:
            return await _read_body(response, cap_bytes)
        excerpt = await _excerpt(response)
        if response.status == 429:
            # By the server's clock, where it tells: this machine's may be wrong by hours
            answered_s = _http_date_s(response.headers.get("Date", "")) or self.clock.wall()
            after = parse_retry_after(response.headers.get("Retry-After"), answered_s)
            raise RateLimitedError(f"429 {excerpt}".rstrip(), retry_after_s=after)
        status = str(response.status) if 100 <= response.status <= 599 else "other"
        raise FetchError(f"{response.status} {excerpt}".rstrip(), status=status)


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds that a Retry-After header asks for, as seconds or as an HTTP date (RFC 9110 §10.2.3).

    `now_s` is Unix time. None where it is missing, unreadable or past.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text) or None
    until_s = _http_date_s(text)
    return until_s - now_s if until_s is not None and until_s > now_s else None


def _http_date_s(text: str) -> float | None:
    """Unix time of an HTTP date, None for everything else."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _sendable(value: str | None) -> str:
    return value if value and value.isascii() and value.isprintable() and len(value) <= _MAX_VALIDATOR else ""


async def _read_body(response: aiohttp.ClientResponse, cap_bytes: int) -> bytes:
    if (response.content_length or 0) > cap_bytes:
        raise FetchError(f"body of {response.content_length} bytes, {cap_bytes} allowed", status="too_large")
    body = BodyBuffer(response.headers.get("Content-Encoding", ""), cap_bytes)
    if response.content is aiohttp.EMPTY_PAYLOAD:  # of a 204, say: one object for all, whose iter_chunks ends only once
        return body.finish()
    try:
        async for chunk, _ in response.content.iter_chunks():  # as received: iter_any would join, and finish again
            body.feed(chunk)
        return body.finish()
    finally:
        body.clear()  # else what an error's traceback holds stays until the garbage collector comes by


async def _excerpt(response: aiohttp.ClientResponse) -> str:
    """What an error's body begins with, on one line; empty where even that does not arrive whole."""
    try:
        body = await _read_body(response, _EXCERPT_CAP_BYTES)
    except (FetchError, aiohttp.ClientError, HttpProcessingError, OSError):
        response.close()
        return ""
    return _one_line(body[: 4 * _EXCERPT_CHARS].decode("utf-8", "replace"))


def _reason(exc: Exception) -> str:
    """What went wrong, on one line: where an answer is no HTTP, aiohttp tells all that was read of it."""
    text = _one_line(str(exc)[: 4 * _EXCERPT_CHARS])
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:_EXCERPT_CHARS]
