"""Options of who is let in, and what the server is given of them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from certstream.app.settings import access_settings, serve_options
from certstream.config import Config, effective_yaml, load_config
from certstream.errors import ConfigError
from certstream.serve.access import AccessSettings, Bucket, ConnectionLimits
from certstream.serve.listener import Address
from certstream.serve.tls import TlsFiles


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml", environ).config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("auth: {header_name: ''}", "must be the name of an HTTP header"),
        ("auth: {header_name: 'X Token'}", "must be the name of an HTTP header"),
        ("auth: {tokens: ['']}", "auth.tokens: *** is not allowed, must be a list of strings, each 1 to 1024"),
        ("auth: {premium_tokens: ['two words']}", "auth.premium_tokens: *** is not allowed, must be"),
        ("auth: {standard_tokens: ['schlüssel']}", "auth.standard_tokens: *** is not allowed, must be"),
        ("trusted_proxies: [10.0.0.1/8]", "10.0.0.1/8 has host bits set"),
        ("trusted_proxies: ['::ffff:10.0.0.0/104']", "::ffff:10.0.0.0/104 is IPv4, and must be written so"),
        ("trusted_proxies: [proxy.example]", "must be a list of addresses and networks"),
        ("trusted_proxies: 10.0.0.1", "must be a list of addresses and networks"),
        ("cors: {allow_origins: [example.com]}", "must be a list of origins like https://example.com"),
        ("cors: {allow_origins: ['https://example.com/']}", "without a slash at the end"),
        ("cors: {allow_origins: ['https://EXAMPLE.com']}", "in lower case"),
        ("cors: {allow_origins: 'https://example.com'}", "must be a list of origins"),
        ("connection_limit: {max_connections: 0}", "must be an integer from 1 to 1000000 clients"),
        ("rate_limit: {window_seconds: 0}", "must be an integer from 1 to 86400 seconds"),
        ("monitoring: {port: 70000}", "must be an integer from 0 to 65535, or null"),
        ("monitoring: {host: 'a b'}", "must be an IP address or a host name"),
        ("monitoring: {port: 1, tls: true}", "tls must be off where tls_cert is not set"),
        ("tls_cert: c.pem", "tls_key: null is not allowed, must be set where tls_cert is, and only there"),
        ("tls_key: k.pem", 'tls_key: "k.pem" is not allowed, must be set where tls_cert is, and only there'),
    ],
)
def test_what_cannot_hold_is_a_mistake_that_says_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    (mistake,) = caught.value.mistakes
    assert said in mistake


def test_without_a_word_everything_is_open() -> None:
    assert access_settings(Config(), {}) == AccessSettings()
    options = serve_options(Config(), ["lite"])
    assert (options.tls, options.monitoring) == (None, None)


def test_limits_that_are_not_enabled_do_not_hold(tmp_path: Path) -> None:
    config = load(tmp_path, "connection_limit: {max_connections: 1}\nrate_limit: {free_burst: 0}\n")
    assert access_settings(config, {}) == AccessSettings()


def test_every_option_reaches_the_server(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "tls_cert: c.pem\ntls_key: k.pem\nmonitoring: {host: '::1', port: 9090, tls: true}\n"
        "trusted_proxies: [10.0.0.7, '2001:db8::/32']\ncors: {allow_origins: ['https://example.com']}\n"
        "connection_limit: {enabled: true, max_connections: 5, per_ip_limit: 2}\n"
        "rate_limit: {enabled: true, standard_max_tokens: 7, standard_refill_rate: 0.5, standard_burst: 3,\n"
        "  window_seconds: 30, window_max_requests: 40, burst_window_seconds: 6}\n"
        "auth: {enabled: true, tokens: [a], standard_tokens: [b], premium_tokens: [c, a], header_name: X-Token,\n"
        "  query_token: true, protect_health: true, protect_metrics: true}\n",
    )
    options = serve_options(config, ["lite"])
    assert options.tls == TlsFiles(Path("c.pem"), Path("k.pem"))
    assert (options.monitoring, options.monitoring_tls) == (Address("::1", 9090), True)
    access = access_settings(config, {})
    auth = access.auth
    assert [auth.tokens.tier(token) for token in "abcd"] == ["premium", "standard", "premium", None]
    assert (auth.enabled, auth.header_name, auth.query_token) == (True, "X-Token", True)
    assert (auth.protect_health, auth.protect_metrics) == (True, True)
    assert access.connections == ConnectionLimits(5, 2)
    assert access.rates is not None
    assert access.rates.buckets["standard"] == Bucket(7, 0.5, 3)
    assert access.rates.buckets["premium"] == Bucket(2_000, 200, 500)
    assert (access.rates.window_s, access.rates.window_requests, access.rates.burst_window_s) == (30, 40, 6)
    assert access.trusted_proxies == (ipaddress.ip_network("10.0.0.7/32"), ipaddress.ip_network("2001:db8::/32"))
    assert access.allow_origins == {"https://example.com"}
    assert access == access_settings(config, {})


def test_the_environment_sets_lists(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "",
        CERTSTREAM_TRUSTED_PROXIES="10.0.0.0/8, ::1",
        CERTSTREAM_CORS_ALLOW_ORIGINS="*",
        CERTSTREAM_AUTH_PREMIUM_TOKENS="a,b",
    )
    assert config.trusted_proxies == ("10.0.0.0/8", "::1")
    assert config.auth.premium_tokens == ("a", "b")
    assert config.cors.allow_origins == ("*",)
    assert load(tmp_path, "cors: {allow_origins: '*'}").cors.allow_origins == ("*",)


def test_asking_for_a_token_that_nobody_has_is_a_mistake(tmp_path: Path) -> None:
    config = load(tmp_path, "auth: {enabled: true}")
    with pytest.raises(ConfigError, match="there is no token: nobody could connect"):
        access_settings(config, {})


def test_tokens_of_the_file_stand_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("from-file\n")
    config = load(tmp_path, f"auth: {{enabled: true, tokens: [a], tokens_file: {tmp_path / 'tokens'}}}")
    tokens = access_settings(config, {}).auth.tokens
    assert (tokens.tier("a"), tokens.tier("from-file"), tokens.tier("tokens")) == ("free", "free", None)


def test_no_token_is_shown_by_settings_or_configuration(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("hunter-of-the-file\n")
    config = load(
        tmp_path,
        f"auth: {{tokens: [hunter], standard_tokens: [hunter2], tokens_file: {tmp_path / 'tokens'}}}",
        CERTSTREAM_AUTH_PREMIUM_TOKENS="hunter3",
    )
    settings = access_settings(config, {})
    assert "hunter" not in effective_yaml(config)
    assert "hunter" not in repr(settings)
    assert all(digest.hex() not in repr(settings) for digest in settings.auth.tokens.tiers)


@pytest.mark.parametrize(
    "text",
    [
        "auth: hunter",
        "auth: [hunter]",
        "auth: [{tokens: [hunter]}]",
        "auth: {bearer: hunter}",
        "auth: {api_keys: [hunter]}",
        "auth: {users: {bob: hunter}}",
    ],
)
def test_whatever_stands_in_the_wrong_place_of_auth_is_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("auth")
    assert "***" in mistake
    assert "hunter" not in mistake


@pytest.mark.parametrize("token", ["*hunter", "!hunter", "&hunter a\n  - &hunter b"])
def test_a_token_that_yaml_takes_for_something_else_is_not_shown(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigError, match=r"not valid YAML: line [34], column 5: ") as caught:
        load(tmp_path, f"auth:\n  tokens:\n  - {token}\n")
    assert "hunter" not in str(caught.value.mistakes)


@pytest.mark.parametrize("name", ["AUTH_BEARER", "AUTH_TOKEN", "AUTH_ENABLE"])
def test_an_unknown_variable_of_auth_is_not_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"CERTSTREAM_{name}: unknown environment variable, set to \\*\\*\\*"):
        load(tmp_path, "", **{f"CERTSTREAM_{name}": "hunter"})


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("auth: {protect_metrics: true}", ["auth.protect_metrics"]),
        ("auth: {protect_health: true, protect_metrics: true}", ["auth.protect_health", "auth.protect_metrics"]),
        ("auth: {enabled: true, tokens: [a], protect_health: true}", []),
    ],
)
def test_what_protects_nothing_while_auth_is_off_is_said(tmp_path: Path, text: str, warned: list[str]) -> None:
    (tmp_path / "c.yaml").write_text(text)
    said = load_config(tmp_path / "c.yaml", {}).warnings
    assert list(said) == [f"{option} has no effect while auth.enabled is off" for option in warned]
