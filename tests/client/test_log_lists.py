from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from certstream.client.http import HttpClient
from certstream.client.log_list import FIRST_RETRY_S, REFRESH_INTERVAL_S, LogLists
from certstream.client.log_list_source import ListSource
from certstream.ct.log_choice import Selection
from certstream.ct.log_list import GOOGLE_LIST_KEY
from certstream.ct.types import LogInfo
from certstream.errors import ConfigError
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer
from tests.client.log_list_support import Publisher, client, hour_later, lists_of, names, summary
from tests.client.reading_support import FakeTime
from tests.ct.log_list_support import APPLE, GOOGLE, GOOGLE_SIGNATURE, classic, document, signed, spki


async def test_a_signed_list_is_fetched_and_its_logs_are_chosen(http: HttpClient, publisher: Publisher) -> None:
    lists = lists_of(http, publisher.source())
    assert names(await lists.start()) == ["Log 1"]
    (status,) = lists.statuses()
    assert (status.signed, status.version, status.logs, status.age_s, status.error) == (True, "1.0", 1, 0.0, None)


async def test_the_real_google_list_is_taken_with_the_pinned_key(http: HttpClient, publisher: Publisher) -> None:
    publisher.body, publisher.signature = GOOGLE, GOOGLE_SIGNATURE
    choice = await lists_of(http, publisher.source(key=GOOGLE_LIST_KEY)).start()
    assert len(choice.chosen) == 61


async def test_the_list_of_a_simulated_server_names_its_logs_as_they_are(http: HttpClient) -> None:
    both, tiled = SimulatedLog("both", seed=1), SimulatedLog("tiled", kinds={"static"}, seed=2)
    async with SimulatorServer([both, tiled]) as server:
        url = f"{server.base_url}/log_list"
        pem = await http.get_page(f"{url}_pubkey.pem", cap_bytes=10_000)
        assert pem is not None
        key = load_pem_public_key(pem.body).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        source = ListSource("simulated", f"{url}.json", f"{url}.sig", key)
        lists = lists_of(http, source, selection=Selection(include_names=("both", "tiled")))  # test logs, by whole name
        choice = await lists.start()
        assert [each.info for each in choice.chosen] == [both.info("rfc6962"), tiled.info("static")]
    assert [each.reason for each in choice.omitted] == ["has the log id of both, which stands before it"]


async def test_local_files_signed_or_not_are_read_as_well(http: HttpClient, tmp_path: Path) -> None:
    for name, body in (("google", GOOGLE), ("google.sig", GOOGLE_SIGNATURE), ("apple", APPLE)):
        (tmp_path / name).write_bytes(body)
    google = ListSource("google", str(tmp_path / "google"), str(tmp_path / "google.sig"), GOOGLE_LIST_KEY)
    apple = ListSource("apple", str(tmp_path / "apple"), needs="google")
    choice = await lists_of(http, google, apple).start()
    assert [len([each for each in choice.chosen if each.source == name]) for name in ("google", "apple")] == [61, 4]


async def test_a_list_without_its_signature_is_never_used(http: HttpClient, publisher: Publisher) -> None:
    publisher.signature = signed(b"another list")
    lists = lists_of(http, publisher.source())
    assert (await lists.start()).chosen == ()
    (status,) = lists.statuses()
    assert (status.age_s, status.logs) == (None, 0)
    assert "signature of the log list does not verify, fetched 3 times" in (status.error or "")
    assert len(publisher.counted("/list.json")) == len(publisher.counted("/list.sig")) == 3


async def test_list_and_signature_of_different_publications_are_both_fetched_again(
    http: HttpClient, time: FakeTime, publisher: Publisher
) -> None:
    publisher.signature = signed(b"the list before")
    time.on_sleep = lambda: publisher.publish(classic(2))
    assert names(await lists_of(http, publisher.source()).start()) == ["Log 2"]
    assert publisher.counted("/list.json") == publisher.counted("/list.sig") == [200, 200]
    assert len(time.slept) == 1


async def test_the_last_good_list_stays_while_no_new_one_verifies(
    http: HttpClient, time: FakeTime, publisher: Publisher
) -> None:
    lists = lists_of(http, publisher.source())
    await lists.start()
    publisher.publish(classic(2))
    publisher.signature = signed(b"torn")
    hour_later(time)
    assert not await lists.refresh()
    assert names(lists.choice) == ["Log 1"]
    (status,) = lists.statuses()
    assert status.error is not None
    assert status.age_s == pytest.approx(REFRESH_INTERVAL_S, abs=60)
    publisher.signature = signed(publisher.body)
    hour_later(time)
    assert summary(await lists.refresh()) == (["Log 2"], ["Log 1"], [])
    assert lists.statuses()[0].error is None


@pytest.mark.parametrize("use_dates", [False, True])
async def test_an_unchanged_list_is_asked_for_but_not_fetched_again(
    http: HttpClient, time: FakeTime, publisher: Publisher, *, use_dates: bool
) -> None:
    publisher.use_dates = use_dates
    lists = lists_of(http, publisher.source())
    await lists.start()
    hour_later(time)
    assert lists.statuses()[0].age_s == REFRESH_INTERVAL_S
    assert not await lists.refresh()
    assert publisher.requests == [("/list.json", 200), ("/list.sig", 200), ("/list.json", 304)]
    assert (lists.statuses()[0].age_s, names(lists.choice)) == (0.0, ["Log 1"])


async def test_a_list_that_did_not_verify_is_not_taken_for_known(
    http: HttpClient, time: FakeTime, publisher: Publisher
) -> None:
    lists = lists_of(http, publisher.source())
    await lists.start()
    publisher.publish(classic(2))
    publisher.signature = signed(b"torn")
    hour_later(time)
    await lists.refresh()
    publisher.signature = signed(publisher.body)  # under the same ETag
    hour_later(time)
    assert summary(await lists.refresh()) == (["Log 2"], ["Log 1"], [])


async def test_changes_come_out_as_logs_added_removed_and_changed(
    http: HttpClient, time: FakeTime, publisher: Publisher
) -> None:
    publisher.publish(classic(1), classic(2), classic(3))
    lists = lists_of(http, publisher.source())
    await lists.start()
    publisher.publish(classic(1), classic(3, url="https://moved.example.com/"), classic(4))
    hour_later(time)
    assert summary(await lists.refresh()) == (["Log 4"], ["Log 2"], ["Log 3"])


async def test_a_log_whose_interval_ends_changes_though_its_list_does_not(
    http: HttpClient, time: FakeTime, publisher: Publisher
) -> None:
    end = datetime.fromtimestamp(time.clock.wall() + REFRESH_INTERVAL_S - 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    interval = {"start_inclusive": "2020-01-01T00:00:00Z", "end_exclusive": end}
    publisher.publish(classic(1, temporal_interval=interval))
    lists = lists_of(http, publisher.source())
    await lists.start()
    hour_later(time)
    ((before, after),) = (await lists.refresh()).changed
    assert (before.poll_interval_s, after.poll_interval_s) == (None, 60.0)


async def test_a_signed_list_older_than_the_one_in_use_is_not_taken(
    http: HttpClient, time: FakeTime, publisher: Publisher
) -> None:
    publisher.publish(classic(1), log_list_timestamp="2026-08-02T00:00:00Z")
    lists = lists_of(http, publisher.source())
    await lists.start()
    for members in ({"log_list_timestamp": "2026-08-01T00:00:00Z"}, {}):
        publisher.publish(classic(2), **members)
        hour_later(time)
        assert not await lists.refresh()
        assert names(lists.choice) == ["Log 1"]
        assert "older than the one in use" in (lists.statuses()[0].error or "")


async def test_a_list_that_only_adds_is_not_used_without_the_one_it_adds_to(
    http: HttpClient, time: FakeTime, publisher: Publisher, tmp_path: Path
) -> None:
    apple = tmp_path / "apple.json"
    apple.write_bytes(document(classic(1), classic(2)))
    publisher.publish(classic(1, state={"rejected": {}}), classic(3))
    publisher.answers = [lambda: web.Response(status=503)]
    lists = lists_of(http, publisher.source("google"), ListSource("apple", str(apple), needs="google"))
    second = LogInfo("own", "https://ct.example.com/2/", "rfc6962", "op")
    assert names(await lists.start()) == []
    assert lists.find(second) is None
    assert [each.waits_for for each in lists.statuses()] == [None, "google"]
    time.now_s += FIRST_RETRY_S
    assert summary(await lists.refresh()) == (["Log 3", "Log 2"], [], [])
    assert [each.waits_for for each in lists.statuses()] == [None, None]
    found = lists.find(second)
    assert found is not None
    assert found.key == spki(2)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 500},
        {"status": 304},
        {"body": b"<!DOCTYPE html>"},
        {"body": b'{"operators": []}'},
        {"body": bytes(5 << 20)},
    ],
    ids=["error", "not asked for", "a page", "an empty list", "too large"],
)
async def test_what_is_no_list_changes_nothing_and_is_asked_for_again_soon(
    http: HttpClient, time: FakeTime, publisher: Publisher, answer: dict[str, Any]
) -> None:
    lists = lists_of(http, publisher.unsigned())
    publisher.answers = [lambda: web.Response(**answer)]
    assert names(await lists.start()) == []
    assert lists.statuses()[0].error is not None
    time.now_s += FIRST_RETRY_S - 1
    assert not await lists.refresh()
    time.now_s += 1
    assert summary(await lists.refresh()) == (["Log 1"], [], [])
    publisher.publish(classic(2))
    publisher.answers = [lambda: web.Response(**{**answer, "status": answer.get("status", 200)})]
    if answer.get("status") != 304:  # which is an answer to a list that is known
        hour_later(time)
        assert not await lists.refresh()
        assert names(lists.choice) == ["Log 1"]


async def test_failures_in_a_row_make_attempts_rarer_up_to_the_interval(http: HttpClient, time: FakeTime) -> None:
    lists = lists_of(http, ListSource("gone", "/nowhere/list.json"))
    await lists.start()
    for _ in range(8):
        assert not await lists.next(), "nothing changed"
    assert time.slept == [60, 120, 240, 480, 960, 1920, 3600, 3600]


async def test_a_retry_after_is_heeded(http: HttpClient, time: FakeTime, publisher: Publisher) -> None:
    publisher.answers = [lambda: web.Response(status=429, headers={"Retry-After": "7200"})]
    lists = lists_of(http, publisher.source())
    await lists.start()
    time.now_s += 7199
    assert not await lists.refresh()
    time.now_s += 1
    assert summary(await lists.refresh()) == (["Log 1"], [], [])


async def test_one_list_that_fails_leaves_the_others(http: HttpClient, publisher: Publisher) -> None:
    lists = lists_of(http, ListSource("gone", "/nowhere/list.json"), publisher.source())
    assert names(await lists.start()) == ["Log 1"]
    assert [each.error is None for each in lists.statuses()] == [False, True]
    assert "/nowhere/list.json: cannot be read" in (lists.statuses()[0].error or "")


async def test_the_next_refresh_is_an_hour_later_with_jitter_and_says_what_changes(
    publisher: Publisher, time: FakeTime
) -> None:
    chance = cycle([0.5, 0.0])
    time.clock = type(time.clock)(time.clock.monotonic, time.clock.wall, time.sleep, lambda: next(chance))
    async with client(time) as http:
        lists = lists_of(http, publisher.source())
        await lists.start()
        publications = map(classic, count(2))
        time.on_sleep = lambda: publisher.publish(next(publications))
        assert summary(await lists.next()) == (["Log 2"], ["Log 1"], [])
        assert summary(await lists.next()) == (["Log 3"], ["Log 2"], [])
    assert time.slept == [pytest.approx(0.95 * 3600), pytest.approx(3600)]


async def test_another_selection_is_another_choice_without_fetching(http: HttpClient, publisher: Publisher) -> None:
    publisher.publish(classic(1), classic(2))
    lists = lists_of(http, publisher.source())
    await lists.start()
    configured = [LogInfo("own", "https://ct.example.com/1/", "rfc6962", "op")]
    assert summary(lists.select(Selection(exclude_names=("log 2",)), configured)) == ([], ["Log 1", "Log 2"], [])
    assert summary(lists.select(Selection(), ())) == (["Log 1", "Log 2"], [], [])
    assert len(publisher.requests) == 2


def test_two_sources_need_two_names() -> None:
    with pytest.raises(ValueError, match="same name"):
        LogLists(None, [ListSource("a", "/a"), ListSource("a", "/b")], Selection(), directory=None)  # type: ignore[arg-type]


def test_a_source_is_signed_with_a_key_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="go together"):
        ListSource("a", "/a", "/a.sig")
    with pytest.raises(ConfigError):
        ListSource("a", "/a", "/a.sig", spki(1))


async def test_a_local_list_that_is_too_large_is_not_read(http: HttpClient, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    lists = lists_of(http, ListSource("large", str(tmp_path / "large")))
    await lists.start()
    assert "larger than" in (lists.statuses()[0].error or "")
