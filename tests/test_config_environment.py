"""CERTSTREAM_* variables: names, forms of their values, and what container platforms put among them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from certstream.config import Config, LoadedConfig, load_config
from certstream.config.environment import NAMES, OPTIONS
from certstream.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certstream.config.file.SEARCHED", ())


def load(**environ: str) -> LoadedConfig:
    return load_config(None, environ)


def mistakes(**environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(**environ)
    return caught.value.mistakes


def value(config: Config, path: str) -> Any:
    section, _, name = path.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


@pytest.mark.parametrize(
    ("name", "text", "path", "expected"),
    [
        ("CERTSTREAM_HOST", "127.0.0.1", "host", "127.0.0.1"),
        ("CERTSTREAM_PORT", "9000", "port", 9000),
        ("CERTSTREAM_LOG_LEVEL", "debug", "log_level", "debug"),
        ("CERTSTREAM_BUFFER_SIZE", "2000", "buffer_size", 2000),
        ("CERTSTREAM_CT_LOGS_URL", "https://x/", "ct_logs_url", "https://x/"),
        ("CERTSTREAM_WS_ENABLED", "false", "protocols.websocket", False),
        ("CERTSTREAM_SSE_ENABLED", "false", "protocols.sse", False),
        ("CERTSTREAM_METRICS_ENABLED", "false", "protocols.metrics", False),
        ("CERTSTREAM_HEALTH_ENABLED", "false", "protocols.health", False),
        ("CERTSTREAM_EXAMPLE_JSON_ENABLED", "false", "protocols.example_json", False),
        ("CERTSTREAM_API_ENABLED", "true", "protocols.api", True),
        ("CERTSTREAM_PROTOCOLS_SSE", "No", "protocols.sse", False),
        ("CERTSTREAM_STREAM_FULL_ENABLED", "0", "streams.full", False),
        ("CERTSTREAM_RFC6962_ENABLED", "off", "ct_log.rfc6962_enabled", False),
        ("CERTSTREAM_STATIC_CT_ENABLED", "FALSE", "ct_log.static_ct_enabled", False),
        ("CERTSTREAM_USER_AGENT", "me/1 (me@example.com)", "ct_log.user_agent", "me/1 (me@example.com)"),
        ("CERTSTREAM_CT_LOG_STATE_FILE", "/var/lib/x.json", "ct_log.state_file", "/var/lib/x.json"),
        ("CERTSTREAM_CT_LOG_BATCH_SIZE", "64", "ct_log.batch_size", 64),
        ("CERTSTREAM_CT_LOG_OPERATOR_RATE_LIMITS", '{"google": 5}', "ct_log.operator_rate_limits", {"google": 5}),
        ("CERTSTREAM_DEDUP_TTL_SECS", "60", "dedup.ttl_secs", 60),
        ("CERTSTREAM_CONNECTION_LIMIT_MAX_CONNECTIONS", "5", "connection_limit.max_connections", 5),
        ("CERTSTREAM_CONNECTION_LIMIT_PER_IP_LIMIT", "5", "connection_limit.per_ip_limit", 5),
        ("CERTSTREAM_RATE_LIMIT_ENABLED", "false", "rate_limit.enabled", False),
        ("CERTSTREAM_RATE_LIMIT_FREE_BURST", "2.5", "rate_limit.free_burst", 2.5),
        ("CERTSTREAM_AUTH_TOKENS", "a, b,,c ", "auth.tokens", ("a", "b", "c")),
        ("CERTSTREAM_AUTH_TOKENS", '["a,b", "c"]', "auth.tokens", ("a,b", "c")),
        ("CERTSTREAM_AUTH_HEADER_NAME", "X-Token", "auth.header_name", "X-Token"),
        ("CERTSTREAM_HOT_RELOAD_WATCH_PATH", "/x", "hot_reload.watch_path", "/x"),
        ("CERTSTREAM_DELTA_SINK_TABLE_PATH", "/srv/table", "delta_sink.table_path", "/srv/table"),
        ("CERTSTREAM_DELTA_SINK_FLUSH_INTERVAL_SECS", "5", "delta_sink.flush_interval_secs", 5),
        ("CERTSTREAM_BACKFILL_STAGING_PATH", "file:///srv/new", "backfill.staging_path", "file:///srv/new"),
        ("CERTSTREAM_BACKFILL_FROM_INDEX", "9223372036854775807", "backfill.from_index", (1 << 63) - 1),
        ("CERTSTREAM_BACKFILL_LOGS", "argon", "backfill.logs", "argon"),
        ("CERTSTREAM_BACKFILL_MAX_SHARE", "0.25", "backfill.max_share", 0.25),
        ("CERTSTREAM_BACKFILL_MAX_SHARE", "1", "backfill.max_share", 1.0),
        ("CERTSTREAM_MAINTENANCE_ENABLED", "off", "maintenance.enabled", False),
        ("CERTSTREAM_MAINTENANCE_KEEP_DAYS", "90", "maintenance.keep_days", 90),
    ],
)
def test_a_variable_sets_its_option(name: str, text: str, path: str, expected: Any) -> None:
    assert value(load(**{name: text}).config, path) == expected


def test_every_option_has_a_variable_of_its_own() -> None:
    assert len({option.environment for option in OPTIONS.values()}) == len(OPTIONS)
    assert {option.environment for option in OPTIONS.values()} <= set(NAMES)


def test_logs_come_as_json() -> None:
    logs = [{"name": "a", "url": "https://a/", "start": 7}, {"name": "b", "url": "https://b/", "start": "beginning"}]
    config = load(CERTSTREAM_CUSTOM_LOGS=json.dumps(logs[:1]), CERTSTREAM_STATIC_LOGS=json.dumps(logs[1:])).config
    assert [(log.name, log.url, log.start) for log in config.followed_logs] == [
        ("a", "https://a/", 7),
        ("b", "https://b/", "beginning"),
    ]


def test_mistakes_in_logs_of_the_environment_name_path_and_variable() -> None:
    (mistake,) = mistakes(CERTSTREAM_STATIC_LOGS='[{"name": "a", "url": "gopher://a"}]')
    assert mistake.startswith('static_logs[0].url: "gopher://a" is not allowed, must be an http:// or https:// URL')
    assert mistake.endswith("[CERTSTREAM_STATIC_LOGS]")
    (mistake,) = mistakes(CERTSTREAM_STATIC_LOGS="[{")
    assert mistake == 'static_logs: "[{" is not allowed, must be a list of logs [CERTSTREAM_STATIC_LOGS]'


@pytest.mark.parametrize("text", ["80x", "8_0", "+80", "0x50", " 80", "٨٠", "8e1", "80.0", "70000", "-1", "true"])
def test_a_number_is_read_strictly(text: str) -> None:
    (mistake,) = mistakes(CERTSTREAM_PORT=text)
    assert mistake.startswith("port: ")
    assert mistake.endswith("is not allowed, must be an integer from 0 to 65535 [CERTSTREAM_PORT]")


@pytest.mark.parametrize("text", ["maybe", "2", " true", "tru"])
def test_a_switch_is_read_strictly(text: str) -> None:
    (mistake,) = mistakes(CERTSTREAM_SSE_ENABLED=text)
    assert mistake == f'protocols.sse: "{text}" is not allowed, must be true or false [CERTSTREAM_SSE_ENABLED]'


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_empty_variable_counts_as_not_set(name: str) -> None:
    assert load(**{name: ""}) == LoadedConfig(Config(), None, (), ())


def test_an_unknown_variable_is_a_mistake_and_others_are_nobodys_business() -> None:
    assert mistakes(CERTSTREAM_CT_LOG_BATCHSIZE="5", certstream_port="x", PORT="y", CERTSTREAMS="z") == (
        'CERTSTREAM_CT_LOG_BATCHSIZE: unknown environment variable, set to "5"; '
        "the nearest known is CERTSTREAM_CT_LOG_BATCH_SIZE",
    )


def test_two_names_of_one_option_must_agree() -> None:
    assert load(CERTSTREAM_SSE_ENABLED="false", CERTSTREAM_PROTOCOLS_SSE="0").config.protocols.sse is False
    assert mistakes(CERTSTREAM_SSE_ENABLED="false", CERTSTREAM_PROTOCOLS_SSE="true") == (
        "protocols.sse: set twice, by CERTSTREAM_PROTOCOLS_SSE and CERTSTREAM_SSE_ENABLED, to different values",
    )


INJECTED = {
    "CERTSTREAM_SERVICE_HOST": "10.96.0.10",
    "CERTSTREAM_SERVICE_PORT": "8080",
    "CERTSTREAM_SERVICE_PORT_HTTP": "8080",
    "CERTSTREAM_PORT": "tcp://10.96.0.10:8080",
    "CERTSTREAM_PORT_8080_TCP": "tcp://10.96.0.10:8080",
    "CERTSTREAM_PORT_8080_TCP_PROTO": "tcp",
    "CERTSTREAM_PORT_8080_TCP_PORT": "8080",
    "CERTSTREAM_PORT_8080_TCP_ADDR": "10.96.0.10",
    "CERTSTREAM_METRICS_SERVICE_HOST": "10.96.0.11",
    "CERTSTREAM_METRICS_SERVICE_PORT": "9090",
    "CERTSTREAM_METRICS_PORT": "udp://10.96.0.11:9090",
    "CERTSTREAM_METRICS_PORT_9090_UDP_ADDR": "10.96.0.11",
    "CERTSTREAM_NAME": "/web/certstream",
    "CERTSTREAM_ENV_PATH": "/usr/bin",
}


def test_what_a_container_platform_injects_is_ignored_with_one_warning() -> None:
    loaded = load(**INJECTED)
    assert loaded.config == Config()
    (warning,) = loaded.warnings
    assert all(name in warning for name in INJECTED)


@pytest.mark.parametrize("name", sorted(INJECTED))
def test_each_injected_variable_alone_is_ignored(name: str) -> None:
    loaded = load(**{name: INJECTED[name]})
    assert (loaded.config, len(loaded.warnings)) == (Config(), 1)


def test_what_only_looks_like_it_is_a_mistake() -> None:
    assert len(mistakes(CERTSTREAM_SERVICE_HOSTS="x", CERTSTREAM_METRICS_PORT="9090", CERTSTREAM_PORT="http://x")) == 3


def test_rust_log_goes_before_the_level() -> None:
    assert load(RUST_LOG="warn", CERTSTREAM_LOG_LEVEL="debug").config.log_level == "warning"
    assert load(RUST_LOG="info,certstream=debug").config.log_level == "debug"
    assert load(RUST_LOG="", CERTSTREAM_LOG_LEVEL="error").config.log_level == "error"


def test_rust_log_for_others_changes_nothing_and_is_told() -> None:
    loaded = load(RUST_LOG="hyper=trace", CERTSTREAM_LOG_LEVEL="error")
    assert loaded.config.log_level == "error"
    assert loaded.warnings == ('RUST_LOG="hyper=trace" names no level for certstream and is ignored',)
