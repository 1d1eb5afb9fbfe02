"""What an address, a token and a proxy may be."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from certstream.subscribe.options import ConnectOptions, StreamKind, stream_url
from certstream.subscribe.websocket_client import RunOptions
from tests.clients.clients_support import tls_files

WS, WSS = "ws://feed.example.com/", "wss://feed.example.com/"


@pytest.mark.parametrize(
    ("url", "kind", "stream"),
    [
        ("ws://h:8080", "full", "ws://h:8080/full-stream"),
        ("ws://h:8080/", "domains", "ws://h:8080/domains-only"),
        ("wss://h/full-stream", "domains", "wss://h/domains-only"),
        ("wss://h/domains-only/", "lite", "wss://h/"),
        ("https://h/ct/", "full", "wss://h/ct/full-stream"),
        ("wss://u:p@h/ct?token=a", "full", "wss://u:p@h/ct/full-stream?token=a"),
        ("ws://[::1]:8080/", "full", "ws://[::1]:8080/full-stream"),
    ],
)
def test_each_stream_of_a_server_has_its_address(url: str, kind: StreamKind, stream: str) -> None:
    assert stream_url(url, kind) == stream


@pytest.mark.parametrize("url", ["", "host:8080", "127.0.0.1", "ftp://h/", "ws://", "ws:///x", "ws://h:99999/"])
def test_an_address_that_is_none_is_refused_before_anything_is_connected(url: str) -> None:
    with pytest.raises(ValueError, match="the address of a stream is"):
        ConnectOptions(url=url)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Other: 1", "tök"])
def test_a_token_that_is_none_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="a token is visible ASCII without spaces"):
        ConnectOptions(url=WS, token=token)


def test_a_token_beside_a_user_is_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        ConnectOptions(url="ws://user:secret@h/", token="t")


def test_secrets_are_neither_in_the_address_shown_nor_in_the_representation() -> None:
    options = ConnectOptions(url="ws://user:hunter2@h:1/x?token=hunter3", proxy="http://u:hunter4@proxy:1")
    assert options.shown == "ws://h:1/x"
    assert "hunter2" not in options.shown
    assert "hunter4" not in repr(options)
    assert "hunter5" not in repr(ConnectOptions(url=WS, token="hunter5", headers={"X": "hunter5"}))


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        (WS, {}, None),
        (WS, {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        (WS, {"HTTPS_PROXY": "http://p:1"}, None),
        (WSS, {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://p:2"}, "http://p:1"),
        (WSS, {"https_proxy": "p:1"}, "http://p:1"),
        (WSS, {"WSS_PROXY": "http://p:3", "HTTPS_PROXY": "http://p:1"}, "http://p:3"),
        (WSS, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.com"}, None),
        (WSS, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.org"}, "http://p:1"),
    ],
)
def test_the_proxy_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = ConnectOptions(url=url).effective_proxy()
    assert (found and str(found).rstrip("/")) == proxy


def test_a_proxy_that_is_given_goes_before_the_environment_but_for_hosts_to_ask_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", "*")
    assert str(ConnectOptions(url=WS, proxy="http://q:2").effective_proxy()) == "http://q:2"
    assert ConnectOptions(url=WS, proxy="http://q:2", no_proxy=["feed.example.com"]).effective_proxy() is None


def test_a_proxy_that_is_not_spoken_is_an_error_and_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'socks5' are not supported"):
        ConnectOptions(url=WS, proxy="socks5://p:1")
    monkeypatch.setenv("HTTP_PROXY", "socks5://p:1")
    with pytest.raises(ValueError, match="'socks5' are not supported"):
        ConnectOptions(url=WS).effective_proxy()


def test_options_of_websocket_client_are_ours_by_other_names() -> None:
    options = RunOptions(
        ping_interval=15,
        ping_timeout=5,
        http_proxy_host="p",
        http_proxy_port="3128",
        http_proxy_auth=("me", "p@ss"),
        http_no_proxy=["direct.example.com"],
        host="other.example.com",
        origin="https://o.example.com",
        sockopt=((1, 2, 3),),
    ).connect_options(WS)
    assert (options.ping_interval_s, options.ping_timeout_s) == (15, 5)
    assert options.proxy == "http://me:p%40ss@p:3128"
    assert options.headers == {"Host": "other.example.com", "Origin": "https://o.example.com"}
    assert (options.no_proxy, options.socket_options) == (("direct.example.com",), ((1, 2, 3),))
    assert options.ssl_context is None
    assert RunOptions(ping_interval=0).connect_options(WS).ping_interval_s == 0


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"dispatcher": object()}, "a dispatcher is not supported"),
        ({"proxy_type": "socks5"}, "proxies of the type 'socks5' are not supported"),
        ({"http_proxy_host": "p"}, "http_proxy_host needs http_proxy_port"),
        ({"sslopt": {"cert_req": ssl.CERT_NONE}}, "sslopt knows no cert_req"),
    ],
)
def test_options_that_cannot_be_had_are_refused(option: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RunOptions(**option).connect_options(WSS)


def test_certificates_are_checked_unless_sslopt_says_otherwise(tmp_path: Path) -> None:
    _, file = tls_files(tmp_path)

    def context(**sslopt: Any) -> ssl.SSLContext:
        made = RunOptions(sslopt=sslopt).connect_options(WSS).ssl_context
        assert made is not None
        return made

    trusting = context(ca_certs=str(file))
    assert (trusting.verify_mode, trusting.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert trusting.cert_store_stats()["x509"] == 1
    blind = context(cert_reqs=ssl.CERT_NONE)
    assert (blind.verify_mode, blind.check_hostname) == (ssl.CERT_NONE, False)
    any_name = context(check_hostname=False, ca_certs=str(file))
    assert (any_name.verify_mode, any_name.check_hostname) == (ssl.CERT_REQUIRED, False)
    own = ssl.create_default_context()
    assert context(context=own) is own
