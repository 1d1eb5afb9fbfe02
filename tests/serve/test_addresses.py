"""Whose request it is, behind proxies too."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certstream.serve.addresses import client_key, parse_address

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8:1::/48"))


def v4(text: str) -> bytes:
    return ipaddress.IPv4Address(text).packed


@pytest.mark.parametrize(
    ("peer", "key"),
    [
        ("192.0.2.1", v4("192.0.2.1")),
        ("::ffff:192.0.2.1", v4("192.0.2.1")),
        ("2001:db8::1", bytes.fromhex("20010db800000000")),
        ("2001:db8::ffff:ffff:ffff:ffff", bytes.fromhex("20010db800000000")),
        ("2001:db8:0:1::1", bytes.fromhex("20010db800000001")),
        ("fe80::1%eth0", bytes.fromhex("fe80000000000000")),
        (None, b""),
    ],
)
def test_an_address_counts_as_ipv4_or_as_its_64(peer: str | None, key: bytes) -> None:
    assert client_key(peer, [], ()) == key


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        pytest.param("192.0.2.1", ["198.51.100.1"], "192.0.2.1", id="nobody else is believed"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="a proxy that says nothing"),
        pytest.param("10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="one proxy"),
        pytest.param("10.0.0.1", ["8.8.8.8, 198.51.100.1"], "198.51.100.1", id="what the client made up"),
        pytest.param("10.0.0.1", ["8.8.8.8,198.51.100.1, 10.2.2.2"], "198.51.100.1", id="two proxies"),
        pytest.param("10.0.0.1", ["8.8.8.8", "198.51.100.1", "10.2.2.2"], "198.51.100.1", id="a header each"),
        pytest.param("10.0.0.1", ["8.8.8.8, 198.51.100.1, 8.8.4.4"], "8.8.4.4", id="a proxy that is not trusted"),
        pytest.param("10.0.0.1", ["10.9.9.9, 10.2.2.2"], "10.9.9.9", id="the network's own clients"),
        pytest.param("10.0.0.1", ["unknown"], "10.0.0.1", id="a proxy that does not know"),
        pytest.param("10.0.0.1", ["198.51.100.1, , 10.2.2.2"], "10.2.2.2", id="nothing between commas"),
        pytest.param("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1", id="with a port"),
        pytest.param("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1", id="mapped"),
        pytest.param("2001:db8:1::7", ["198.51.100.1"], "198.51.100.1", id="an IPv6 proxy"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_trusted_proxy(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert client_key(peer, forwarded, PROXIES) == v4(client)


def test_ipv6_comes_in_brackets_with_a_port_too() -> None:
    expected = bytes.fromhex("20010db800020000")
    for text in ("2001:db8:2::1", "[2001:db8:2::1]", "[2001:db8:2::1]:443"):
        assert client_key("10.0.0.1", [text], PROXIES) == expected


def test_no_more_than_32_hops_are_looked_at() -> None:
    assert client_key("10.0.0.1", ["198.51.100.1" + ", 10.1.1.1" * 31], PROXIES) == v4("198.51.100.1")
    assert client_key("10.0.0.1", ["198.51.100.1" + ", 10.1.1.1" * 32], PROXIES) == v4("10.1.1.1")


@given(st.lists(st.text(), max_size=5), st.sampled_from(["10.0.0.1", "192.0.2.1"]))
def test_whatever_is_sent_there_is_a_client(forwarded: list[str], peer: str) -> None:
    assert len(client_key(peer, forwarded, PROXIES)) in (4, 8)


@given(st.ip_addresses(), st.text(alphabet="0123456789.,:abcdef []%", max_size=60))
def test_what_a_client_says_itself_changes_nothing_behind_a_proxy(
    client: ipaddress.IPv4Address | ipaddress.IPv6Address, said: str
) -> None:
    parsed = parse_address(str(client))
    if parsed is not None and not any(parsed in network for network in PROXIES):
        assert client_key("10.0.0.1", [said, str(client)], PROXIES) == client_key(str(client), [], PROXIES)
