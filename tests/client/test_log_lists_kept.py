"""The last good lists on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from certstream.client.http import HttpClient
from certstream.client.log_list import REFRESH_INTERVAL_S
from certstream.client.log_list_source import ListSource
from certstream.client.log_list_store import kept_path
from certstream.ct.log_list import GOOGLE_LIST_KEY
from tests.client.log_list_support import Publisher, hour_later, lists_of, names
from tests.client.reading_support import FakeTime
from tests.ct.log_list_support import classic, document


async def test_the_kept_list_is_used_at_a_start_without_network_with_its_age(
    http: HttpClient, time: FakeTime, publisher: Publisher, tmp_path: Path
) -> None:
    await lists_of(http, publisher.source(), directory=tmp_path / "kept").start()
    hour_later(time)
    publisher.answers = [lambda: web.Response(status=503)]
    again = lists_of(http, publisher.source(), directory=tmp_path / "kept")
    assert names(await again.start()) == ["Log 1"]
    assert len(publisher.requests) == 2  # the start waits for nothing that it has
    assert not await again.refresh()
    (status,) = again.statuses()
    assert (status.age_s, names(again.choice)) == (REFRESH_INTERVAL_S, ["Log 1"])
    assert "503" in (status.error or "")


async def test_the_kept_list_goes_on_being_known_to_its_publisher(
    http: HttpClient, publisher: Publisher, tmp_path: Path
) -> None:
    await lists_of(http, publisher.source(), directory=tmp_path).start()
    again = lists_of(http, publisher.source(), directory=tmp_path)
    await again.start()
    assert not await again.refresh()
    assert publisher.counted("/list.json") == [200, 304]


async def test_a_list_that_is_found_unchanged_is_kept_as_current(
    http: HttpClient, time: FakeTime, publisher: Publisher, tmp_path: Path
) -> None:
    lists = lists_of(http, publisher.source(), directory=tmp_path)
    await lists.start()
    hour_later(time)
    await lists.refresh()
    again = lists_of(http, publisher.source(), directory=tmp_path)
    await again.start()
    assert again.statuses()[0].age_s == 0.0


@pytest.mark.parametrize("damage", ["body", "signature", "another key", "cut", "empty", "garbage", "directory"])
async def test_a_kept_list_that_does_not_verify_any_more_is_not_used(
    http: HttpClient, publisher: Publisher, tmp_path: Path, damage: str
) -> None:
    await lists_of(http, publisher.source(), directory=tmp_path).start()
    path = kept_path(tmp_path, publisher.source())
    content = path.read_bytes()
    damages = {
        "body": content.replace(b"Log 1", b"Log 7"),
        "signature": content.replace(b'"signature":"', b'"signature":"AAAA'),
        "cut": content[:-1],
        "empty": b"",
        "garbage": b"[]\n{}",
    }
    path.write_bytes(damages.get(damage, content))
    if damage == "directory":
        path.unlink()
        path.mkdir()
    source = publisher.source(key=GOOGLE_LIST_KEY) if damage == "another key" else publisher.source()
    publisher.answers = [lambda: web.Response(status=503)]
    lists = lists_of(http, source, directory=tmp_path)
    assert names(await lists.start()) == []
    assert lists.statuses()[0].age_s is None


async def test_a_kept_list_that_is_not_signed_is_not_used_when_it_is_damaged(
    http: HttpClient, publisher: Publisher, tmp_path: Path
) -> None:
    source = publisher.unsigned()
    await lists_of(http, source, directory=tmp_path).start()
    path = kept_path(tmp_path, source)
    for old, new, found in ((b"", b"", ["Log 1"]), (b"Log 1", b"Log 7", [])):
        path.write_bytes(path.read_bytes().replace(old, new))
        publisher.answers = [lambda: web.Response(status=503)]
        assert names(await lists_of(http, source, directory=tmp_path).start()) == found


async def test_a_source_that_becomes_signed_does_not_use_what_was_kept_unsigned(
    http: HttpClient, publisher: Publisher, tmp_path: Path
) -> None:
    await lists_of(http, publisher.unsigned("a"), directory=tmp_path).start()
    publisher.answers = [lambda: web.Response(status=503)]
    assert names(await lists_of(http, publisher.source("a"), directory=tmp_path).start()) == []


async def test_nothing_is_left_beside_the_kept_lists_and_each_source_has_its_own(
    http: HttpClient, publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "own.json").write_bytes(document(classic(2)))
    own = ListSource("Own/../List", str(tmp_path / "own.json"))
    lists = lists_of(http, publisher.source(), own, directory=tmp_path / "kept")
    await lists.start()
    assert {path.name.rpartition("-")[0] for path in (tmp_path / "kept").iterdir()} == {"signed", "own-list"}


async def test_a_disk_that_takes_nothing_does_not_keep_lists_from_being_used(
    http: HttpClient, publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_bytes(b"a file where the directory would be")
    lists = lists_of(http, publisher.source(), directory=tmp_path / "kept")
    assert names(await lists.start()) == ["Log 1"]
    assert (tmp_path / "kept").read_bytes() == b"a file where the directory would be"
