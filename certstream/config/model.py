"""Every option of the service: its unit, range and default.

`config.yaml` is written from this model. A part of the program receives its own section, never the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from certstream.config.access import (
    AuthConfig,
    ConnectionLimitConfig,
    CorsConfig,
    MonitoringConfig,
    Networks,
    RateLimitConfig,
    checked_host,
    trusted_proxies,
)
from certstream.config.archive import BackfillConfig, DeltaSinkConfig, MaintenanceConfig
from certstream.config.levels import parse_level
from certstream.config.log_lists import LogListsConfig
from certstream.config.logs import CustomLogConfig, StaticLogConfig, Verification, off_is_text
from certstream.config.option import FilePath, Section, option

_MIB = 1 << 20
_AGENT = "1 to 200 printable ASCII characters"


def _level_name(value: Any) -> Any:
    text = off_is_text(value)
    return parse_level(text) if isinstance(text, str) else text


class ProtocolsConfig(Section):
    """What is served."""

    websocket: bool = option(True, "WebSocket streams: /, /full-stream and /domains-only.")
    sse: bool = option(True, "Server-sent events: /sse?stream=lite|full|domains.")
    metrics: bool = option(True, "Prometheus metrics: /metrics.")
    health: bool = option(
        True,
        "Liveness, readiness, the state of logs and archive: /health, /health/ready, /health/deep, /coverage.",
    )
    example_json: bool = option(True, "The latest message of each stream: /example.json and the like.")
    api: bool = option(False, "The JSON API: /api/….", inert=True)


class StreamsConfig(Section):
    """Which streams exist, and what a slow client may cost. A stream that is off is neither encoded nor served."""

    full: bool = option(True, "Everything, with DER and chain; 4 to 9 KB per certificate.")
    lite: bool = option(True, "Without DER and chain; about 1 KB per certificate.")
    domains_only: bool = option(True, "Only the names; about 0.2 KB per certificate.")
    client_backlog_bytes: int = option(
        4 * _MIB,
        "What may wait for one client that reads too slowly; past it, the client is dropped.",
        unit="bytes",
        ge=65_536,
        le=1 << 30,
    )
    total_backlog_bytes: int = option(
        128 * _MIB,
        "What may wait for all clients together; past it, those furthest behind are dropped. "
        "At least client_backlog_bytes.",
        unit="bytes",
        ge=65_536,
        le=1 << 36,
        validate_default=True,
    )
    heartbeat_interval_secs: int = option(
        30, "Time between heartbeat messages, and between WebSocket pings.", unit="seconds", ge=1, le=3_600
    )

    @field_validator("total_backlog_bytes")
    @classmethod
    def _total_holds_one_client(cls, total: int, info: ValidationInfo) -> int:
        one = info.data.get("client_backlog_bytes", 0)
        if total < one:
            raise ValueError(f"must be at least streams.client_backlog_bytes, {one} bytes")
        return total


class CtLogConfig(Section):
    """How logs are read."""

    state_file: FilePath | None = option(
        "certstream_state.json",
        "Where the position in each log is kept. Null keeps none: each start begins anew.",
        allowed="a path",
    )
    state_recovery: Literal["fail", "fresh"] = option(
        "fail",
        "What an unreadable state file does: stop the start, or start anew with the old file kept aside.",
    )
    verification: Annotated[Verification, BeforeValidator(off_is_text)] = option(
        "warn",
        "What is verified of the logs. warn: every entry goes out at once and is proven behind that, what cannot be "
        "proven is listed and read again; enforce: nothing goes out or is archived before it is proven to stand in a "
        "tree that the log has signed, and a log without a known key stops the start; off: nothing.",
        allowed="off, warn or enforce",
    )
    verification_max_unproven_entries: int = option(
        10_240,
        "Entries of one log that may be read before they are proven; enforce holds them in memory.",
        unit="entries",
        ge=256,
        le=1_000_000,
    )
    batch_size: int = option(
        1024, "Entries asked for in one request; a log may return fewer.", unit="entries", ge=1, le=10_000
    )
    fetch_concurrency: int = option(
        4, "Requests in flight to one log while catching up; one when caught up.", unit="requests", ge=1, le=64
    )
    poll_interval_ms: int = option(
        1_000,
        "Wait between looks at a log's head while it grows; while it does not, they become rarer.",
        unit="ms",
        ge=10,
        le=3_600_000,
    )
    partial_tile_wait_secs: int = option(
        15,
        "How long the last entries of a static-ct log wait for their tile to fill before it is fetched in part.",
        unit="seconds",
        ge=0,
        le=600,
    )
    request_timeout_secs: int = option(30, "Time that one request may take.", unit="seconds", ge=1, le=600)
    retry_max_attempts: int = option(
        3, "Failed attempts in a row that count as one failure of a log.", unit="attempts", ge=1, le=1_000
    )
    retry_initial_delay_ms: int = option(
        1_000, "Wait before the first retry; each further one doubles it.", unit="ms", ge=1, le=3_600_000
    )
    retry_max_delay_ms: int = option(
        30_000, "The longest wait between retries; more than 30000 is taken as 30000.", unit="ms", ge=1, le=3_600_000
    )
    healthy_threshold: int = option(
        2, "Successes in a row that make a degraded or unhealthy log healthy.", unit="successes", ge=1, le=1_000
    )
    unhealthy_threshold: int = option(
        5, "Failures in a row that make a degraded log unhealthy.", unit="failures", ge=1, le=1_000
    )
    health_check_interval_secs: int = option(
        60, "The longest time between probes of an unhealthy log.", unit="seconds", ge=1, le=86_400
    )
    rfc6962_enabled: bool = option(True, "Whether RFC 6962 logs are read: custom_logs, and those of the lists.")
    static_ct_enabled: bool = option(True, "Whether static-ct logs are read: static_logs, and those of the lists.")
    default_operator_rate_limit_ms: int = option(
        0,
        "Least time between two requests to one operator. 0 sets no limit: an operator that answers 429 is slowed "
        "until it answers again. (certstream-server-rust: 500.)",
        unit="ms",
        ge=0,
        le=600_000,
    )
    operator_rate_limits: Mapping[str, Annotated[int, Field(ge=0, le=600_000)]] = option(
        {},
        "The same for single operators, by the name that a log's `operator` has.",
        allowed="a mapping of operators to integers from 0 to 600000 ms",
    )
    user_agent: str | None = option(
        None,
        "How requests introduce themselves. Operators ask for a contact: put yours in, an e-mail address or an "
        "https URL. Null is certstream-server, its version and its page.",
        allowed=_AGENT,
    )
    start_overlap_leaves: int = option(256, "Leaves that a first start rereads.", inert=True, ge=0, le=1 << 32)

    @field_validator("user_agent")
    @classmethod
    def _checked_agent(cls, agent: str | None) -> str | None:
        if agent is None or not agent.strip():
            return None
        if not agent.isascii() or not agent.isprintable() or len(agent) > 200:
            raise ValueError(f"must be {_AGENT}")
        return agent


class DedupConfig(Section):
    """Certificates that several logs carry are streamed once. What is archived is not affected."""

    enabled: bool = option(True, "Whether a certificate is streamed only for the first log that shows it.")
    capacity: int = option(
        1_000_000, "Certificates remembered; the oldest make room.", unit="certificates", ge=1, le=100_000_000
    )
    ttl_secs: int = option(900, "How long a certificate is remembered.", unit="seconds", ge=1, le=604_800)


class ApiConfig(Section):
    """The JSON API."""

    cache_capacity: int = option(
        10_000, "Certificates kept for look-ups.", unit="certificates", ge=0, le=100_000_000, inert=True
    )


class HealthConfig(Section):
    """When /health/ready says that the service does not keep up."""

    min_share: float = option(
        0.5,
        "Least share of what all logs together grew by in 10 minutes that must have been read; below it for 5 minutes, "
        "/health/ready answers 503. 0 never does.",
        ge=0.0,
        le=1.0,
    )


class HotReloadConfig(Section):
    """Taking up a changed configuration without a restart, and without dropping a client.

    What concerns tokens, limits, CORS, trusted proxies, the log level, the logs, log lists, verification, the pace of
    reading and health.min_share takes effect at once; what needs a restart is named, in the log and in /health/deep.
    A file with mistakes changes nothing.
    """

    enabled: bool = option(False, "Whether the configuration file is watched, and auth.tokens_file with it.")
    watch_path: FilePath | None = option(
        None,
        "What is watched instead of the configuration file, which is read again when that changes: a file that is "
        "touched when all is written. Null watches the configuration file itself, also where it is a link.",
        allowed="a path",
    )


class Config(BaseSettings):
    """The whole configuration. `Config()` is the defaults: the model itself reads neither file nor environment."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", strict=True, case_sensitive=True)

    host: Annotated[str, AfterValidator(checked_host)] = option(
        "0.0.0.0",  # noqa: S104 -- a server for the network, as the configuration says
        "Address to listen on.",
        allowed="an IP address or a host name",
    )
    port: int = option(8080, "TCP port to listen on; 0 takes a free one.", ge=0, le=65_535)
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level_name)] = (
        option(
            "info",
            "What is logged. RUST_LOG overrides it.",
            allowed="debug, info, warning, error or critical; or trace, warn, off, or directives as in RUST_LOG",
        )
    )
    log_format: Literal["console", "json"] = option("console", "How log lines are written to stderr.")
    tls_cert: FilePath | None = option(
        None,
        "Certificate and chain as PEM, to serve TLS 1.2 and 1.3 with. Read again when the file changes.",
        allowed="a path",
    )
    tls_key: FilePath | None = option(
        None,
        "Private key of that certificate as PEM, not encrypted. Both are set or neither.",
        allowed="a path",
        validate_default=True,
    )
    trusted_proxies: Networks = trusted_proxies()
    buffer_size: int = option(
        1_000, "Messages kept for slow clients; see streams.client_backlog_bytes.", ge=1, le=1 << 32, inert=True
    )
    ct_logs_url: str | None = option(None, "A list of logs; lists are named in log_lists.", inert=True, allowed="a URL")

    protocols: ProtocolsConfig = ProtocolsConfig()
    streams: StreamsConfig = StreamsConfig()
    ct_log: CtLogConfig = CtLogConfig()
    dedup: DedupConfig = DedupConfig()
    connection_limit: ConnectionLimitConfig = ConnectionLimitConfig()
    rate_limit: RateLimitConfig = RateLimitConfig()
    api: ApiConfig = ApiConfig()
    auth: AuthConfig = AuthConfig()
    cors: CorsConfig = CorsConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    health: HealthConfig = HealthConfig()
    hot_reload: HotReloadConfig = HotReloadConfig()
    delta_sink: DeltaSinkConfig = DeltaSinkConfig()
    backfill: BackfillConfig = BackfillConfig()
    maintenance: MaintenanceConfig = MaintenanceConfig()
    log_lists: LogListsConfig = LogListsConfig()
    custom_logs: Annotated[tuple[CustomLogConfig, ...], Field(strict=False)] = option(
        (), "The RFC 6962 logs to read.", allowed="a list of logs"
    )
    static_logs: Annotated[tuple[StaticLogConfig, ...], Field(strict=False)] = option(
        (), "The static-ct-api logs to read.", allowed="a list of logs"
    )

    @field_validator("tls_key")
    @classmethod
    def _certificate_and_key(cls, key: str | None, info: ValidationInfo) -> str | None:
        if (key is None) != (info.data.get("tls_cert") is None):
            raise ValueError("must be set where tls_cert is, and only there")
        return key

    @field_validator("monitoring")
    @classmethod
    def _certificate_for_monitoring(cls, monitoring: MonitoringConfig, info: ValidationInfo) -> MonitoringConfig:
        if monitoring.tls and info.data.get("tls_cert") is None:
            raise ValueError("tls must be off where tls_cert is not set")
        return monitoring

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what it is given: `load_config` brings file and environment, with every unknown name refused."""
        return (init_settings,)

    @property
    def followed_logs(self) -> tuple[CustomLogConfig | StaticLogConfig, ...]:
        """The logs to read: both lists, without the kind that is switched off."""
        rfc6962 = self.custom_logs if self.ct_log.rfc6962_enabled else ()
        static = self.static_logs if self.ct_log.static_ct_enabled else ()
        return (*rfc6962, *static)
