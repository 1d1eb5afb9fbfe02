"""Tables keep what comes again, within their bound."""

from __future__ import annotations

from certstream.certs.memo import Memo, Table


def test_a_value_is_parsed_once() -> None:
    parsed: list[bytes] = []

    def parse(key: bytes) -> bytes:
        parsed.append(key)
        return key.upper()

    memo = Memo(parse, len, most_bytes=1 << 20)
    assert [memo[b"a"], memo[b"b"], memo[b"a"]] == [b"A", b"B", b"A"]
    assert parsed == [b"a", b"b"]


def test_at_its_bound_a_table_starts_again_empty() -> None:
    table: Table[int] = Table(100_000)
    for number in range(1000):
        table.keep(b"%d" % number, number, 1000)
        assert len(table) <= 100_000 // 1256
    assert table[b"999"] == 999
    assert b"0" not in table


def test_what_takes_a_large_part_of_the_bound_is_not_kept() -> None:
    memo = Memo(lambda key: key * 100, len, most_bytes=64_000)
    assert memo[b"x" * 50] == b"x" * 5000
    assert memo[b"x"] == b"x" * 100
    assert list(memo) == [b"x"]
