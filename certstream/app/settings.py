"""From the configuration to what each part is given."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from certstream.certs.batch import StreamKind
from certstream.client.base import LogClient, ReadSettings
from certstream.client.http import DEFAULT_USER_AGENT, FetchSettings, HttpClient
from certstream.client.issuers import IssuerCache
from certstream.client.pacing import PaceSettings
from certstream.client.rfc6962 import Rfc6962Client
from certstream.client.static_ct import StaticClient
from certstream.config import AuthConfig, BackfillConfig, Config, CtLogConfig, RateLimitConfig, StreamsConfig
from certstream.config.logs import Verification
from certstream.config.tokens import read_tokens, tokens_path
from certstream.ct.log_list import FinalTreeHead
from certstream.ct.types import LogInfo
from certstream.errors import ConfigError
from certstream.live.condition import TailSettings
from certstream.live.tailer import Start, TailStatus
from certstream.serve.access import (
    AccessSettings,
    AuthSettings,
    Bucket,
    ConnectionLimits,
    RateLimits,
    Tier,
    TokenDigests,
    rate_limits,
)
from certstream.serve.health import LogHealth
from certstream.serve.listener import Address
from certstream.serve.options import ServeOptions
from certstream.serve.tls import TlsFiles

_LOGS_AHEAD: Final = 2  # logs of one operator that may read ahead with all of fetch_concurrency at the same time
_LOGS_IN_FLIGHT: Final = 4  # likewise, requests in flight
MMD_S: Final = 86_400  # of a log that no list names: no log's maximum merge delay is longer


@dataclass(frozen=True, slots=True)
class FollowedLog:
    """One log to follow, and what its own entry in the configuration says."""

    info: LogInfo
    start: Start = "head"
    batch_size: int | None = None  # None: that of all logs
    poll_interval_s: float | None = None
    verification: Verification = "warn"
    final: FinalTreeHead | None = None  # of a log that takes no more: where it ends, and its root
    mmd_s: int = MMD_S
    leaving: bool = False  # no list has it any more: it is read up to the last head that was seen, and then no more


def configured_logs(config: Config) -> list[FollowedLog]:
    """The logs to read, as the configuration names them."""
    return [
        FollowedLog(
            entry.info,
            entry.start,
            entry.batch_size,
            None if entry.poll_interval_ms is None else entry.poll_interval_ms / 1000,
            entry.verification or config.ct_log.verification,
        )
        for entry in config.followed_logs
    ]


def stream_kinds(streams: StreamsConfig) -> list[StreamKind]:
    """The streams that are on."""
    switches: dict[StreamKind, bool] = {"full": streams.full, "lite": streams.lite, "domains": streams.domains_only}
    return [kind for kind, on in switches.items() if on]


def serve_options(config: Config, kinds: Sequence[StreamKind]) -> ServeOptions:
    """What is served and where, from the configuration."""
    protocols, monitoring = config.protocols, config.monitoring
    tls = None
    if config.tls_cert is not None and config.tls_key is not None:
        tls = TlsFiles(Path(config.tls_cert), Path(config.tls_key))
    return ServeOptions(
        streams=frozenset(kinds),
        websocket=protocols.websocket,
        sse=protocols.sse,
        example_json=protocols.example_json,
        health=protocols.health,
        metrics=protocols.metrics,
        coverage=config.delta_sink.enabled,
        heartbeat_s=config.streams.heartbeat_interval_secs,
        tls=tls,
        monitoring=None if monitoring.port is None else Address(monitoring.host, monitoring.port),
        monitoring_tls=monitoring.tls,
    )


def fetch_settings(ct_log: CtLogConfig) -> FetchSettings:
    """How requests are made and paced, from the configuration."""
    rates = {operator: _per_second(ms) for operator, ms in ct_log.operator_rate_limits.items()}
    return FetchSettings(
        user_agent=ct_log.user_agent or DEFAULT_USER_AGENT,
        request_timeout_s=ct_log.request_timeout_secs,
        prefetch=_LOGS_AHEAD * ct_log.fetch_concurrency,
        pace=PaceSettings(
            rates,
            _per_second(ct_log.default_operator_rate_limit_ms),
            in_flight=_LOGS_IN_FLIGHT * ct_log.fetch_concurrency,
        ),
    )


def backfill_fetch_settings(ct_log: CtLogConfig, backfill: BackfillConfig) -> FetchSettings:
    """How a backfill's requests are made: as those of live reading, within its share of each configured limit."""
    live = fetch_settings(ct_log.model_copy(update={"fetch_concurrency": backfill.fetch_concurrency}))
    pace, share = live.pace, backfill.max_share
    rates = {operator: None if rate is None else rate * share for operator, rate in pace.rates_per_s.items()}
    default = None if pace.default_rate_per_s is None else pace.default_rate_per_s * share
    return replace(live, pace=replace(pace, rates_per_s=rates, default_rate_per_s=default))


def _per_second(interval_ms: int) -> float | None:
    """The rate of one request per interval; 0 is no limit."""
    return 1000 / interval_ms if interval_ms else None


def log_client(http: HttpClient, log: LogInfo, issuers: IssuerCache, settings: ReadSettings) -> LogClient:
    """What reads that log, by its protocol."""
    if log.kind == "static":
        return StaticClient(http, log, issuers, settings)
    return Rfc6962Client(http, log, settings)


def read_settings(ct_log: CtLogConfig, followed: FollowedLog) -> ReadSettings:
    """How one log is read while it is followed."""
    return ReadSettings(
        batch_size=followed.batch_size or ct_log.batch_size,
        fetch_concurrency=ct_log.fetch_concurrency,
        partial_tile_wait_s=ct_log.partial_tile_wait_secs,
    )


def tail_settings(ct_log: CtLogConfig, followed: FollowedLog) -> TailSettings:
    """How one log is followed, from the configuration."""
    return TailSettings(
        poll_interval_s=followed.poll_interval_s or ct_log.poll_interval_ms / 1000,
        retry_initial_s=ct_log.retry_initial_delay_ms / 1000,
        retry_max_s=ct_log.retry_max_delay_ms / 1000,
        retry_max_attempts=ct_log.retry_max_attempts,
        healthy_threshold=ct_log.healthy_threshold,
        unhealthy_threshold=ct_log.unhealthy_threshold,
        health_check_interval_s=ct_log.health_check_interval_secs,
    )


@dataclass(frozen=True, slots=True)
class LogRecipe:
    """One log to follow, and all that the configuration says of how."""

    followed: FollowedLog
    read: ReadSettings
    tail: TailSettings
    max_unproven: int  # entries that may be read before they are proven


def log_recipes(ct_log: CtLogConfig, logs: Sequence[FollowedLog]) -> list[LogRecipe]:
    """How each log is followed."""
    most = ct_log.verification_max_unproven_entries
    return [LogRecipe(log, read_settings(ct_log, log), tail_settings(ct_log, log), most) for log in logs]


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """What may change while the service runs, as its parts are given it."""

    config: Config
    fetch: FetchSettings
    recipes: tuple[LogRecipe, ...]
    access: AccessSettings
    min_share: float  # below it the service is not ready

    @property
    def followed(self) -> list[FollowedLog]:
        """The logs, and what the configuration or a log list says of each."""
        return [recipe.followed for recipe in self.recipes]

    def of(self, logs: Sequence[FollowedLog]) -> LiveSettings:
        """The same for these logs."""
        return replace(self, recipes=tuple(log_recipes(self.config.ct_log, logs)))

    @property
    def infos(self) -> list[LogInfo]:
        """The logs that are followed."""
        return [recipe.followed.info for recipe in self.recipes]


def live_settings(config: Config, logs: Sequence[FollowedLog], environ: Mapping[str, str]) -> LiveSettings:
    """What may change, from the configuration and the logs to follow. Reads a file as `access_settings` does."""
    recipes = tuple(log_recipes(config.ct_log, logs))
    access = access_settings(config, environ)
    return LiveSettings(config, fetch_settings(config.ct_log), recipes, access, config.health.min_share)


def log_health(status: TailStatus) -> LogHealth:
    """A log's status as /health/deep shows it."""
    return LogHealth(
        name=status.log.name,
        url=status.log.url,
        kind=status.log.kind,
        operator=status.log.operator,
        state=status.state,
        position=status.position,
        tree_size=status.tree_size,
        lag_entries=status.lag_entries,
        lag_s=status.lag_s,
        last_success_s=status.last_success_s,
        last_error=status.last_error,
        share=None if status.share is None else status.share.share,
        share_cause=None if status.share is None else status.share.cause,
    )


def access_settings(config: Config, environ: Mapping[str, str]) -> AccessSettings:
    """Who is let in, from the configuration and the file of tokens that it names, which is read here.

    Raises ConfigError where that file cannot be used, and where a token is asked for that nobody can have.
    """
    auth = config.auth
    tokens = TokenDigests.of(_tokens(auth, environ))
    if auth.enabled and not tokens.tiers:
        raise ConfigError("auth.enabled: true is not allowed, there is no token: nobody could connect")
    limit = config.connection_limit
    return AccessSettings(
        auth=AuthSettings(
            enabled=auth.enabled,
            tokens=tokens,
            header_name=auth.header_name,
            query_token=auth.query_token,
            protect_health=auth.protect_health,
            protect_metrics=auth.protect_metrics,
        ),
        connections=ConnectionLimits(limit.max_connections, limit.per_ip_limit)
        if limit.enabled
        else ConnectionLimits(),
        rates=_rates(config.rate_limit) if config.rate_limit.enabled else None,
        trusted_proxies=tuple(map(ipaddress.ip_network, config.trusted_proxies)),
        allow_origins=frozenset(config.cors.allow_origins),
    )


def _tokens(auth: AuthConfig, environ: Mapping[str, str]) -> Iterator[tuple[str, Tier]]:
    yield from ((token, "free") for token in auth.tokens)
    yield from ((token, "standard") for token in auth.standard_tokens)
    yield from ((token, "premium") for token in auth.premium_tokens)
    if auth.tokens_file is not None:
        yield from read_tokens(tokens_path(auth.tokens_file, environ))


def _rates(limit: RateLimitConfig) -> RateLimits:
    buckets: dict[Tier, Bucket] = {
        "free": Bucket(limit.free_max_tokens, limit.free_refill_rate, limit.free_burst),
        "standard": Bucket(limit.standard_max_tokens, limit.standard_refill_rate, limit.standard_burst),
        "premium": Bucket(limit.premium_max_tokens, limit.premium_refill_rate, limit.premium_burst),
    }
    return rate_limits(buckets, limit.window_seconds, limit.window_max_requests, limit.burst_window_seconds)
