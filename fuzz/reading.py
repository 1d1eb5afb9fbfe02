"""What must hold of whatever comes over HTTP before a parser of `ct` sees it, and of the files that are read again."""

from __future__ import annotations

import atexit
import gzip
import math
import tempfile
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

import orjson
import pybase64

from certstream.client.http import Validators, parse_retry_after
from certstream.client.inflate import BodyBuffer
from certstream.client.log_list_source import ListSource
from certstream.client.log_list_store import KeptList, keep_list, kept_list, kept_path
from certstream.client.pages import Pages
from certstream.errors import FetchError, MalformedError, StateError
from certstream.intervals import Intervals
from certstream.ledger import Ledger, Trust
from certstream.state import StateStore, read_positions
from fuzz.mutation import mutated_json
from fuzz.protocol import accepts
from fuzz.seeds import edges

_ENCODINGS: Final = ("", "gzip", "deflate", "identity", "x-gzip ", "br")
_CAP_BYTES: Final = 10_000
_SOURCE: Final = ListSource("Fuzz", "https://lists.example/all.json")
_NOW_S: Final = 1_767_139_200.0
_WRITTEN_EVERY: Final = 32  # state files that are taken up and written again, which waits for the disk


@cache
def _directory() -> Path:
    """A directory of this process, gone at its end."""
    directory = tempfile.TemporaryDirectory(prefix="certstream-fuzz-")
    atexit.register(directory.cleanup)
    return Path(directory.name)


def check_body(data: bytes) -> None:
    """Encoding, size of the pieces, then the body: in whatever pieces it comes, it is the same."""
    if len(data) < 4:
        return
    encoding, size, body = _ENCODINGS[data[0] % len(_ENCODINGS)], 2 + data[1], data[2:]
    whole, pieces = _fed(encoding, body, len(body)), _fed(encoding, body, size)
    assert whole == pieces
    if isinstance(whole, bytes):
        assert len(whole) <= _CAP_BYTES
        packed = body.startswith(b"\x1f\x8b") or encoding.strip() in ("gzip", "x-gzip", "deflate")
        assert packed or whole == body


def _fed(encoding: str, body: bytes, size: int) -> bytes | None:
    """The body, None where it is refused."""
    try:
        buffer = BodyBuffer(encoding, _CAP_BYTES)
        for at in range(0, len(body), size):
            buffer.feed(body[at : at + size])
        return buffer.finish()
    except FetchError:
        return None


def check_pages(data: bytes) -> None:
    """A log's answers: how many entries of those asked for, or that they are too many."""
    most = 1 + 16 * data[0] if data else 1
    pages, start, end = Pages(most), 0, 1 << 40
    for octet in data[1:]:
        stop = pages.stop(start, end)
        assert start < stop <= min(end, start + 2 * most)
        if octet < 32:
            pages.refused(start, stop, timed_out=octet < 16)
            continue
        count = max(1, (stop - start) * octet // 255) if octet < 250 else stop - start + octet - 250
        pages.answered(start, stop, count)
        start = min(end - 1, start + count)


def check_retry_after(data: bytes) -> None:
    """A Retry-After header."""
    seconds = parse_retry_after(data.decode("utf-8", "surrogateescape"), _NOW_S)
    assert seconds is None or (math.isfinite(seconds) and seconds > 0)


def check_kept_list(data: bytes) -> None:
    """The file of a log list that was kept."""
    path = kept_path(_directory(), _SOURCE)
    path.write_bytes(data)
    try:
        kept = kept_list(_directory(), _SOURCE)
    except MalformedError:
        return
    assert kept is not None
    keep_list(_directory(), _SOURCE, kept)
    assert kept_list(_directory(), _SOURCE) == kept


def check_state(data: bytes) -> None:
    """The state file: what is read can be written again, and then says the same."""
    path = _directory() / "certstream_state.json"
    path.write_bytes(data)
    try:
        before = read_positions(path)
    except StateError:
        assert not accepts(StateError, StateStore(path).open)
        return
    assert all(0 <= position.current_index < 1 << 63 for position in before.values())
    if zlib.crc32(data) % _WRITTEN_EVERY:
        return
    with_more = StateStore(path)
    with_more.open()
    try:
        assert {url: with_more.position(url) for url in before} == before
        for url, position in before.items():
            edge = with_more.edge(url)
            assert edge is None or edge.size == position.current_index
        fresh = "https://one.more.example"
        if fresh not in before:
            with_more.begin(fresh, 1, 2)
    finally:
        with_more.close()
    assert with_more.save_error is None
    assert {url: position for url, position in read_positions(path).items() if url != fresh} == before


def check_ledger(data: bytes) -> None:
    """What is proven of each log: a file that is none counts as nothing known, and does not stop what is noted."""
    path = _directory() / "ledger" / "trust.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    known = Ledger(path).read()
    for trust in known.values():
        for kind in (trust.verified, trust.tainted, trust.altered):
            assert (kind.start >= 0).all()
            assert (kind.start < kind.stop).all()
            assert (kind.start[1:] > kind.stop[:-1]).all()
    if zlib.crc32(data) % _WRITTEN_EVERY == 0:
        url, found = "https://one.more.example", Trust(verified=Intervals.of((3, 9)))
        Ledger(path).note({url: found})
        after = Ledger(path).read()
        assert not len(found.verified - after[url].verified)
        assert after.keys() == {url, *(each for each, trust in known.items() if trust)}
    for each in path.parent.iterdir():
        each.unlink()


def bodies() -> list[bytes]:
    """Bodies as `check_body` takes them."""
    text = b'{"entries":[]}' * 20
    packed = (b"\x00" + text, b"\x01" + gzip.compress(text), b"\x02" + zlib.compress(text))
    members = b"\x00" + gzip.compress(text[:50]) + gzip.compress(text[50:])
    return [each[:1] + b"\x05" + each[1:] for each in (*packed, members)]


def page_answers() -> list[bytes]:
    """Answers of logs that page in different ways."""
    return [bytes((64, *([255] * 40))), bytes((64, *([80, 255] * 20))), bytes((2, *([10, 20, 100, 249, 255] * 12)))]


RETRY_AFTERS: Final = (b"120", b"Wed, 21 Oct 2026 07:28:00 GMT", b"Wed, 21 Oct 26 07:28 -0000", b"21 Oct 2026 1:2 EST")


def kept_lists() -> list[bytes]:
    """A list as it is kept."""
    keep_list(
        _directory(), _SOURCE, KeptList(b'{"operators":[]}', b"signature", 1_767_139_200_000, Validators("e", "l"))
    )
    return [kept_path(_directory(), _SOURCE).read_bytes()]


def states() -> list[bytes]:
    """State files of this program and of others."""
    full = {"current_index": 12, "tree_size": 20, "last_success": 1_767_139_200, "start_index": 2, "archive_start": 2}
    with_edge = {**full, "edge": pybase64.b64encode(edges()[2]).decode(), "current_index": 7, "log_id": "AAAA"}
    logs = {"https://a.example/log": with_edge, "https://b.example/": {"current_index": 7}, "https://b.example": full}
    return [orjson.dumps({"version": 1, "logs": logs, "more": {"x": [1]}}), b'{"logs":{}}', b"{}"]


def ledgers() -> list[bytes]:
    """A file of what is proven, and the same with another version."""
    path = _directory() / "seed" / "trust.json"
    some = Trust(Intervals.of((0, 10), (20, 2**62)), Intervals.of((10, 12)), Intervals.of((3, 4)))
    Ledger(path).note({"https://a.example": some, "https://b.example/log": Trust(verified=Intervals.of((5, 6)))})
    content = path.read_bytes()
    return [content, content.replace(b'"version":1', b'"version":2')]


def mutated_ledger(data: bytes, random: Random) -> bytes:
    """Another one, mostly with a checksum that is right."""
    changed = mutated_json(data, random)
    try:
        document = orjson.loads(changed)
        if random.randrange(8) and "crc32" in document:
            changed = orjson.dumps({**document, "crc32": zlib.crc32(orjson.dumps(document["logs"]))})
    except (ValueError, TypeError, KeyError):
        pass
    return changed
