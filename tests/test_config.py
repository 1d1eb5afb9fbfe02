"""Loading: defaults < file < environment, every mistake at once, reference names accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from certstream.config import Config, LoadedConfig, effective_yaml, load_config
from certstream.errors import ConfigError

Load = Callable[..., LoadedConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a YAML text and an environment."""
    file = tmp_path / "c.yaml"

    def load(text: str = "", /, **environ: str) -> LoadedConfig:
        file.write_text(text)
        return load_config(file, environ)

    return load


@pytest.fixture
def mistakes(load: Load, tmp_path: Path) -> Callable[..., list[str]]:
    """Load what must not load, and return its mistakes without the file's directory."""

    def mistakes(text: str = "", /, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        assert all("\n" not in mistake for mistake in caught.value.mistakes)
        return [mistake.replace(f"{tmp_path}/", "") for mistake in caught.value.mistakes]

    return mistakes


Mistakes = Callable[..., list[str]]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}", "null", "ct_log:\nstreams:\nport:\ncustom_logs:\n"])
def test_a_file_that_says_nothing_gives_the_defaults(load: Load, text: str) -> None:
    loaded = load(text)
    assert loaded.config == Config()
    assert (loaded.ignored, loaded.warnings) == ((), ())


def test_the_environment_goes_before_the_file_and_the_file_before_the_defaults(load: Load) -> None:
    config = load(
        "port: 1\nhost: '::1'\nct_log: {batch_size: 7, poll_interval_ms: 70}\n",
        CERTSTREAM_PORT="2",
        CERTSTREAM_CT_LOG_BATCH_SIZE="8",
    ).config
    assert (config.port, config.host) == (2, "::1")
    assert (config.ct_log.batch_size, config.ct_log.poll_interval_ms, config.ct_log.fetch_concurrency) == (8, 70, 4)


def test_the_model_itself_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("CERTSTREAM_PORT", "1")
    assert Config().port == 8080


def test_a_configuration_cannot_be_changed(load: Load) -> None:
    config = load().config
    with pytest.raises(ValueError, match="frozen"):
        config.port = 1
    with pytest.raises(ValueError, match="frozen"):
        config.ct_log.batch_size = 1
    assert config == Config()


def test_every_mistake_is_told_at_once(mistakes: Mistakes) -> None:
    found = mistakes(
        "port: 70000\nstreams: {lites: true}\nct_log: {batch_size: 0}\n",
        CERTSTREAM_DEDUP_CAPACITY="many",
        CERTSTREAM_HSOT="x",
    )
    assert found == [
        "streams.lites: unknown option, set to true; the nearest known is streams.lite [c.yaml]",
        'CERTSTREAM_HSOT: unknown environment variable, set to "x"; the nearest known is CERTSTREAM_HOST',
        "port: 70000 is not allowed, must be an integer from 0 to 65535 [c.yaml]",
        "ct_log.batch_size: 0 is not allowed, must be an integer from 1 to 10000 entries [c.yaml]",
        'dedup.capacity: "many" is not allowed, must be an integer from 1 to 100000000 certificates '
        "[CERTSTREAM_DEDUP_CAPACITY]",
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("port: '8080'", "port"),
        ("port: true", "port"),
        ("port: 80.0", "port"),
        ("port: [80]", "port"),
        ("port: -1", "port"),
        ("port: 65536", "port"),
        ("host: 1", "host"),
        ("host: 'a b'", "host"),
        ("host: ''", "host"),
        ("host: 1.2.3", "host"),
        ("host: 256.1.1.1", "host"),
        ("log_level: verbose", "log_level"),
        ("log_level: 3", "log_level"),
        ("log_format: xml", "log_format"),
        ("protocols: {sse: 'yes'}", "protocols.sse"),
        ("protocols: {sse: 1}", "protocols.sse"),
        ("protocols: {sse: }", "protocols.sse"),
        ("protocols: true", "protocols"),
        ("streams: [full]", "streams"),
        ("streams: {heartbeat_interval_secs: 0}", "streams.heartbeat_interval_secs"),
        ("ct_log: {partial_tile_wait_secs: 601}", "ct_log.partial_tile_wait_secs"),
        ("ct_log: {partial_tile_wait_secs: -1}", "ct_log.partial_tile_wait_secs"),
        ("ct_log: {fetch_concurrency: 0}", "ct_log.fetch_concurrency"),
        ("ct_log: {state_recovery: maybe}", "ct_log.state_recovery"),
        ("ct_log: {state_file: 5}", "ct_log.state_file"),
        ('ct_log: {state_file: "a\\0b"}', "ct_log.state_file"),
        ('auth: {tokens_file: "a\\0b"}', "auth.tokens_file"),
        ('hot_reload: {watch_path: "a\\ud800"}', "hot_reload.watch_path"),
        ('tls_cert: a\ntls_key: "a\\0b"', "tls_key"),
        ('ct_log: {user_agent: "a\\nb"}', "ct_log.user_agent"),
        ("ct_log: {operator_rate_limits: {google: -1}}", "ct_log.operator_rate_limits.google"),
        ("ct_log: {operator_rate_limits: [google]}", "ct_log.operator_rate_limits"),
        ("rate_limit: {free_burst: .nan}", "rate_limit.free_burst"),
        ("rate_limit: {free_burst: fast}", "rate_limit.free_burst"),
        ("auth: {tokens: abc}", "auth.tokens"),
        ("auth: {tokens: [1]}", "auth.tokens[0]"),
        ("custom_logs: {name: a}", "custom_logs"),
        ("custom_logs: [a]", "custom_logs[0]"),
    ],
)
def test_a_wrong_type_or_range_names_the_path_and_what_is_allowed(mistakes: Mistakes, text: str, path: str) -> None:
    (mistake,) = mistakes(text)
    assert mistake.startswith(f"{path}: ")
    assert " is not allowed, must be " in mistake
    assert mistake.endswith(" [c.yaml]")


def test_the_bound_of_all_clients_holds_at_least_one(load: Load, mistakes: Mistakes) -> None:
    assert mistakes("streams: {client_backlog_bytes: 1000000000}") == [
        "streams.total_backlog_bytes: 134217728 is not allowed, must be at least streams.client_backlog_bytes, "
        "1000000000 bytes"
    ]
    assert load("streams: {client_backlog_bytes: 65536, total_backlog_bytes: 65536}").config.streams.full


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("prot: 1", "the nearest known is port"),
        ("ctlog: {}", "the nearest known is ct_log"),
        ("ct_log: {statefile: x}", "the nearest known is ct_log.state_file"),
        ("state_file: x", "the nearest known is ct_log.state_file"),
        ("ct_log: {websocket: x}", "the nearest known is protocols.websocket"),
        ("dedup: {zzz: 1}", "known are enabled, capacity, ttl_secs"),
        ("1: 2", "known are host, port, log_level"),
        ("_env_file: x", "the nearest known is auth.tokens_file"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest_known(mistakes: Mistakes, text: str, hint: str) -> None:
    (mistake,) = mistakes(text)
    assert ": unknown option, set to " in mistake
    assert hint in mistake


def test_secrets_are_not_told(mistakes: Mistakes) -> None:
    found = "\n".join(
        mistakes(
            "auth: {token: hunter2, tokens: [[hunter3]], premium_token: hunter4}\napi_secret: hunter5\n"
            "ct_logs_url: [https://u:hunter6@example.com]\nmy_list: 'https://u:hunter7@example.com/'\n",
            CERTSTREAM_AUTH_TOKEN="hunter8",
            CERTSTREAM_PASSWORD="hunter9",
        )
    )
    assert len(found.splitlines()) == 8
    assert "hunter" not in found


@pytest.mark.parametrize(
    "text",
    [
        "auths: {enabled: true, tokens: [hunter2]}",
        "auths: [hunter2]",
        "server: {auth: {tokens: [hunter2]}}",
        "auth: hunter2",
        "auth: [hunter2]",
        "auth: {enabled: hunter2}",
        "auth: {header_name: 'Bearer hunter2'}",
        "auth: {clients: {alice: hunter2}}",
        "auth: {tokens: [*hunter2]}",
        "auth: {tokens: [!hunter2 a]}",
        "auth: {tokens: [!h!unter2 a]}",
    ],
)
def test_secrets_in_the_wrong_place_are_not_told(mistakes: Mistakes, text: str) -> None:
    (mistake,) = mistakes(text)
    assert "unter2" not in mistake
    (mistake,) = mistakes("", CERTSTREAM_AUTH_CLIENTS='{"alice": "hunter2"}')
    assert "hunter" not in mistake


def test_a_long_value_is_cut_and_control_characters_are_written_out(mistakes: Mistakes) -> None:
    (long,) = mistakes(f"port: {'x' * 500}")
    assert len(long) < 200
    (control,) = mistakes('port: "a\\u001b[2J\\nb"')
    assert control.isprintable()


REFERENCE_1_2 = """
host: "0.0.0.0"
port: 8080
log_level: "info"
buffer_size: 1000
ct_logs_url: "https://www.gstatic.com/ct/log_list/v3/all_logs_list.json"
tls_cert: null
tls_key: null
protocols: {websocket: true, sse: false, metrics: true, health: true, example_json: true, api: false}
ct_log:
  retry_max_attempts: 3
  retry_initial_delay_ms: 1000
  retry_max_delay_ms: 30000
  request_timeout_secs: 30
  healthy_threshold: 2
  unhealthy_threshold: 5
  health_check_interval_secs: 60
  state_file: "certstream_state.json"
  batch_size: 256
  poll_interval_ms: 1000
connection_limit: {enabled: false, max_connections: 10000, per_ip_limit: null}
rate_limit:
  enabled: false
  free_max_tokens: 100
  free_refill_rate: 10.5
  free_burst: 20
  standard_max_tokens: 500
  standard_refill_rate: 50
  standard_burst: 100
  premium_max_tokens: 2000
  premium_refill_rate: 200
  premium_burst: 500
  window_seconds: 60
  window_max_requests: 1000
  burst_window_seconds: 10
api: {cache_capacity: 10000}
auth: {enabled: false, tokens: [], header_name: Authorization, standard_tokens: [a], premium_tokens: [b]}
hot_reload: {enabled: false, watch_path: null}
custom_logs:
  - {name: "Mine", url: "https://ct.example.com/log"}
static_logs:
  - {name: "Willow", url: "https://mon.willow.ct.letsencrypt.org/2026h1/"}
delta_sink: {enabled: true, table_path: ./data/certstream, batch_size: 10000, flush_interval_secs: 30}
"""

REFERENCE_1_5 = """
log_level: "certstream_server_rust=debug,info"
additional_log_lists: []
streams: {full: true, lite: true, domains_only: false}
ct_log:
  state_file: null
  batch_size: 1024
  fetch_concurrency: 4
  start_overlap_leaves: 256
  rfc6962_enabled: true
  static_ct_enabled: true
  default_operator_rate_limit_ms: 500
  operator_rate_limits: {google: 250}
  catalog_authority_overrides: {}
dedup: {capacity: 1000000, ttl_secs: 900}
rate_limit: {enabled: false, max_tokens: 100, refill_rate: 10, burst: 20}
custom_logs:
  - name: Mine
    url: https://ct.example.com/log
    expected_log_id: dNudWPfUfp39eHoWKpkcGM9pjafHKZGMmhiwRQ26RLw=
    batch_size: 128
    poll_interval_ms: 2000
static_logs:
  - name: Sycamore
    url: https://mon.sycamore.ct.letsencrypt.org/2026h1/
    log_origin: log.sycamore.ct.letsencrypt.org/2026h1
"""


def test_a_file_of_the_reference_server_loads_unchanged(load: Load) -> None:
    loaded = load(REFERENCE_1_2)
    assert loaded.config.ct_log.batch_size == 256
    assert loaded.config.protocols.sse is False
    assert [log.name for log in loaded.config.followed_logs] == ["Mine", "Willow"]
    assert set(loaded.ignored) >= {"buffer_size", "ct_logs_url", "api.cache_capacity"}
    assert not set(loaded.ignored) & {"host", "ct_log.state_file", "auth.enabled", "protocols.api", "protocols.sse"}
    sink = loaded.config.delta_sink
    assert (sink.enabled, sink.table_path, sink.batch_size) == (True, "./data/certstream", 10_000)
    assert not [name for name in loaded.ignored if name.startswith("delta_sink.")]
    assert loaded.warnings == ()


def test_a_file_of_its_successor_loads_unchanged(load: Load) -> None:
    loaded = load(REFERENCE_1_5)
    assert loaded.config.log_level == "debug"
    assert loaded.config.ct_log.state_file is None
    assert loaded.config.ct_log.default_operator_rate_limit_ms == 500
    assert loaded.config.ct_log.operator_rate_limits == {"google": 250}
    assert loaded.config.streams.domains_only is False
    assert loaded.config.custom_logs[0].batch_size == 128
    assert loaded.ignored == (
        "additional_log_lists",
        "ct_log.catalog_authority_overrides",
        "ct_log.start_overlap_leaves",
        "rate_limit.burst",
        "rate_limit.max_tokens",
        "rate_limit.refill_rate",
    )


def test_there_is_no_pacing_until_a_limit_is_configured(load: Load) -> None:
    assert load().config.ct_log.default_operator_rate_limit_ms == 0
    assert load().config.ct_log.operator_rate_limits == {}


@pytest.mark.parametrize(("text", "names"), [("", ["a", "b"]), ("rfc6962", ["b"]), ("static_ct", ["a"])])
def test_a_kind_of_log_can_be_switched_off(load: Load, text: str, names: list[str]) -> None:
    switch = f"ct_log: {{{text}_enabled: false}}\n" if text else ""
    logs = "custom_logs: [{name: a, url: 'https://a/'}]\nstatic_logs: [{name: b, url: 'https://b/'}]\n"
    assert [log.name for log in load(switch + logs).config.followed_logs] == names


@pytest.mark.parametrize("agent", ["null", "''", "'  '"])
def test_a_blank_user_agent_is_the_default_one(load: Load, agent: str) -> None:
    assert load(f"ct_log: {{user_agent: {agent}}}").config.ct_log.user_agent is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1", "localhost", "node-1.example.com"])
def test_addresses_and_host_names_can_be_listened_on(load: Load, host: str) -> None:
    assert load(f"host: '{host}'").config.host == host


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("info", "info"),
        ("WARN", "warning"),
        ("trace", "debug"),
        ("off", "critical"),
        ("certstream=debug", "debug"),
        ("info,certstream_server_rust=error,hyper=warn", "error"),
        ("hyper=debug,warn", "warning"),
    ],
)
def test_levels_are_words_or_directives(load: Load, text: str, level: str) -> None:
    assert load(f"log_level: {text}").config.log_level == level
    assert load(CERTSTREAM_LOG_LEVEL=text).config.log_level == level


@pytest.mark.parametrize("text", ["loud", "=debug", "certstream=loud", "hyper=debug", "info,loud", ","])
def test_what_names_no_level_is_a_mistake(mistakes: Mistakes, text: str) -> None:
    (mistake,) = mistakes(f"log_level: '{text}'")
    assert "debug, info, warning, error or critical" in mistake


def test_the_effective_configuration_loads_to_itself(load: Load) -> None:
    config = load(REFERENCE_1_5 + "auth: {header_name: X}\n").config
    assert load(effective_yaml(config)).config == config


def test_the_effective_configuration_shows_no_secret(load: Load) -> None:
    text = "ct_logs_url: 'https://u:hunter@h/x'\nauth: {tokens: [hunter], premium_tokens: [hunter, hunter]}\n"
    shown: dict[str, Any] = yaml.safe_load(effective_yaml(load(text).config))
    assert shown["auth"]["tokens"] == ["***"]
    assert shown["auth"]["premium_tokens"] == ["***", "***"]
    assert shown["ct_logs_url"] == "https://***@h/x"
