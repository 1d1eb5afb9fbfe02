"""The service follows what a signed log list names, and what changes there; mostly in the test's own process."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from certstream.errors import ConfigError
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.log_list_support import Publisher, publishing
from tests.e2e.archive_service_support import eventually, stands_at, url_of
from tests.e2e.command_support import run
from tests.e2e.e2e_support import Service, Simulate, StartService
from tests.e2e.in_process_support import InProcess, work_in
from tests.e2e.log_list_support import LISTS, entry, listing, readonly
from tests.e2e.reload_support import ON, edit

KEPT = "log_lists"  # beside the state file


@pytest.fixture
async def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartService]:
    """Start a service in this process, which ends with the test."""
    work_in(tmp_path, monkeypatch)
    async with AsyncExitStack() as stack:

        async def start(options: Mapping[str, Any]) -> Service:
            return await stack.enter_async_context(InProcess(tmp_path, options, ()))

        yield start


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    async with publishing() as publisher:
        yield publisher


async def log_has_position(service: Service, log: SimulatedLog) -> None:
    await service.until(lambda line: line.get("log") == log.name and line.get("position") is not None)


async def follow(begin: StartService, publisher: Publisher, *logs: SimulatedLog) -> Service:
    """A service that follows a list of these logs, each from its head."""
    publisher.publish(*map(entry, logs))
    service = await begin({**listing(publisher), **ON})
    for log in logs:
        await log_has_position(service, log)
    return service


async def is_suspect(service: Service, log: SimulatedLog) -> None:
    await service.until(lambda line: line["event"].startswith("log is suspect") and line["log"] == log.name)


async def look_again(service: Service, publisher: Publisher, interval_s: int) -> None:
    """Let the service look at the list before its time: another interval makes it do so."""
    looks = len(publisher.counted("/list.json"))
    await edit(service, {**listing(publisher, log_lists={"refresh_interval_secs": interval_s}), **ON})
    await eventually(lambda: len(publisher.counted("/list.json")) > looks)


def followed(health: dict[str, Any]) -> list[str]:
    return [log["name"] for log in health["logs"]]


async def test_a_configuration_without_logs_follows_the_lists_from_their_heads(
    start_service: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    a, b, c = (SimulatedLog(name, initial=10, seed=seed) for seed, name in enumerate("abc"))
    await simulate(a, b, c)
    publisher.publish(entry(a), entry(b, "static"), entry(c, state={"retired": {}}), version="7.5")
    service = await start_service(listing(publisher))
    for log in (a, b):
        await log_has_position(service, log)
    async with service.listen() as client:
        a.grow(5)
        b.grow(300)
        await client.until_index("a", 14)
        await client.until_index("b", 309)
    assert (client.indices("a"), client.indices("b")) == (list(range(10, 15)), list(range(10, 310)))
    assert followed(await service.health()) == ["a", "b"]
    await says_how_the_list_is_doing(service)
    assert (await service.stop())[0] == 0
    assert c.endpoints.total() == 0


async def says_how_the_list_is_doing(service: Service) -> None:
    (status,) = (await service.health())["lists"]
    assert (status["name"], status["version"], status["signed"], status["logs"], status["last_error"]) == (
        "ours", "7.5", True, 3, None,
    )  # fmt: skip
    metrics = (await service.get("/metrics"))[1]
    assert 'certstream_log_list_logs{list="ours"} 3.0' in metrics
    assert 'certstream_log_list_failures_total{list="ours"} 0.0' in metrics
    (age,) = [line for line in metrics.splitlines() if line.startswith("certstream_log_list_age_seconds{")]
    assert 0 <= float(age.split()[-1]) < 60


async def test_a_log_that_appears_is_read_from_0_and_one_that_disappears_to_its_last_head(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    a, b, new = (SimulatedLog(name, initial=10, seed=seed) for seed, name in enumerate(("a", "b", "new")))
    await simulate(a, b, new)
    service = await follow(begin, publisher, a, b)
    async with service.listen() as client:
        publisher.publish(entry(a), entry(new, "static"))
        await look_again(service, publisher, 61)
        await client.until_index("new", 9)
        gone = await service.until(lambda line: line["event"].startswith("log is followed no more"))
        assert gone["log"] == "b"
        a.grow(5)
        await client.until_index("a", 14)
    assert client.indices("new") == list(range(10))
    assert client.indices("a") == list(range(10, 15))
    assert [line["log"] for line in service.lines if line["event"] == "stopped following log"] == ["b"], "of the others"
    assert followed(await service.health()) == ["a", "new"]
    assert (await service.stop())[0] == 0
    assert stands_at(service, url_of(b, "rfc6962")) == 10


async def test_a_log_that_appears_while_the_service_is_stopped_is_read_from_0(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    a, new = SimulatedLog("a", initial=10), SimulatedLog("new", initial=20, seed=1)
    await simulate(a, new)
    service = await follow(begin, publisher, a)
    assert (await service.stop())[0] == 0
    publisher.publish(entry(a), entry(new))
    await service.start()
    await eventually(lambda: stands_at(service, url_of(new, "rfc6962")) == 20)
    assert new.endpoints["get-entries"] > 0
    assert service.state["logs"][url_of(new, "rfc6962")]["start_index"] == 0
    assert service.state["logs"][url_of(a, "rfc6962")]["start_index"] == 10


async def test_without_a_network_the_list_that_was_kept_is_followed(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    log = SimulatedLog("log", initial=10)
    await simulate(log)
    service = await follow(begin, publisher, log)
    assert (await service.stop())[0] == 0
    assert list((service.directory / KEPT).iterdir())
    log.grow(5)
    publisher.publish(entry(log), version="2.0")
    publisher.signature = b"of something else"
    await service.start()
    await eventually(lambda: stands_at(service, url_of(log, "rfc6962")) == 15)


async def test_ports_answer_while_no_list_can_be_had_and_its_logs_follow_when_it_comes(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    log = SimulatedLog("log", initial=10)
    await simulate(log)
    publisher.answers = [lambda: web.Response(status=404)]
    service = await begin({**listing(publisher), **ON})
    await service.until(lambda line: line["event"] == "log list cannot be had")
    health = await service.health()
    assert (health["status"], health["logs"]) == ("degraded", [])
    assert health["warnings"] == ["no log is followed: no log list could be had yet"]
    assert [(each["name"], each["logs"]) for each in health["lists"]] == [("ours", 0)]
    assert (await service.get("/health/ready"))[0] == 503
    publisher.publish(entry(log))
    await look_again(service, publisher, 61)
    await log_has_position(service, log)
    assert (await service.health())["status"] == "healthy"
    assert (await service.get("/health/ready"))[0] == 200
    assert (await service.stop())[0] == 0
    assert stands_at(service, url_of(log, "rfc6962")) == 10, "it is the first look at the list"


async def test_a_readonly_log_is_read_to_its_final_tree_head_and_no_further(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    a, b = SimulatedLog("a", initial=20), SimulatedLog("b", initial=300, seed=1)
    await simulate(a, b)
    final_a, final_b = a.tree.root(20), b.tree.root(270)
    other = SimulatedLog("other", initial=1, seed=2)
    await simulate(other)
    service = await follow(begin, publisher, other)
    publisher.publish(entry(other), readonly(a, 20, final_a), readonly(b, 270, final_b, "static"))
    await look_again(service, publisher, 61)
    await eventually(lambda: stands_at(service, url_of(a, "rfc6962")) == 20)
    await eventually(lambda: stands_at(service, url_of(b, "static")) == 270)
    logs = {log["name"]: log for log in (await service.health())["logs"]}
    assert (logs["b"]["tree_size"], logs["b"]["state"]) == (270, "following")
    assert (await service.stop())[0] == 0
    assert stands_at(service, url_of(b, "static")) == 270


async def test_the_position_of_a_log_goes_along_to_its_new_url(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    log = SimulatedLog("log", initial=10)
    await simulate(log)
    service = await follow(begin, publisher, log)
    async with service.listen() as client:
        publisher.publish(entry(log, "static"))
        await look_again(service, publisher, 61)
        moved = await service.until(lambda line: line["event"].startswith("log has another URL"))
        assert (moved["before"], moved["url"]) == (url_of(log, "rfc6962"), url_of(log, "static"))
        log.grow(5)
        await client.until_index("log", 14)
    assert client.indices("log") == list(range(10, 15))
    assert (await service.stop())[0] == 0
    publisher.publish(entry(log))  # and back, while it is stopped
    log.grow(5)
    await service.start()
    await eventually(lambda: stands_at(service, url_of(log, "rfc6962")) == 20)
    assert stands_at(service, url_of(log, "static")) is None


async def test_a_changed_selection_takes_logs_out_at_once_and_others_in_at_their_heads(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    a, b = SimulatedLog("a", initial=10), SimulatedLog("b", initial=20, seed=1)
    await simulate(a, b)
    publisher.publish(entry(a), entry(b))
    options = {**listing(publisher, log_lists={"exclude_names": ["b"]}), **ON}
    service = await begin(options)
    await log_has_position(service, a)
    await edit(service, {**options, LISTS: {**options[LISTS], "exclude_names": ["a"]}})
    await log_has_position(service, b)
    assert followed(await service.health()) == ["b"]
    assert stands_at(service, url_of(b, "rfc6962")) in (None, 20)
    assert (await service.stop())[0] == 0
    assert service.state["logs"][url_of(b, "rfc6962")]["start_index"] == 20


async def test_a_log_that_disappears_while_it_is_behind_is_read_to_its_last_head_and_not_beyond(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    a, b = SimulatedLog("a", initial=10), SimulatedLog("b", initial=10, seed=1)
    await simulate(a, b)
    service = await follow(begin, publisher, a, b)
    async with service.listen() as client:
        failing = b.faults.add(Fault(FaultKind.SERVER_ERROR, on="get-entries"))
        b.grow(50)
        await eventually(lambda: b.endpoints["get-entries"] > 0)  # the head of 60 was seen
        publisher.publish(entry(a))
        await look_again(service, publisher, 61)
        await service.until(lambda line: line["event"] == "log is followed by changed options" and line["log"] == "b")
        assert followed(await service.health()) == ["a", "b"]
    assert (await service.stop())[0] == 0
    b.grow(20)
    await service.start()
    assert followed(await service.health()) == ["a", "b"], "it is known over a restart"
    async with service.listen() as client:
        b.faults.remove(failing)
        await service.until(lambda line: line["event"].startswith("log is followed no more"))
    assert client.indices("b") == list(range(10, 60))
    assert followed(await service.health()) == ["a"]
    assert (await service.stop())[0] == 0
    assert stands_at(service, url_of(b, "rfc6962")) == 60
    asked = len(b.requests)
    await service.start()
    assert followed(await service.health()) == ["a"]
    assert len(b.requests) == asked


async def test_for_want_of_the_list_no_log_is_left(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    log = SimulatedLog("log", initial=10)
    await simulate(log)
    service = await follow(begin, publisher, log)
    shutil.rmtree(service.directory / KEPT)
    publisher.signature = b"of something else"
    await look_again(service, publisher, 61)  # all that is known of the list is what is followed
    async with service.listen() as client:
        log.grow(5)
        await client.until_index("log", 14)
    health = await service.health()
    assert (followed(health), health["lists"][0]["logs"]) == (["log"], 0)
    assert not [line for line in service.lines if line["event"] == "stopped following log"]


async def test_another_root_than_that_of_the_final_tree_head_is_evidence(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    ended, grown = SimulatedLog("ended", initial=20), SimulatedLog("grown", initial=300, seed=1)
    other = SimulatedLog("other", initial=1, seed=2)
    await simulate(ended, grown, other)
    service = await follow(begin, publisher, other)
    wrong = bytes(32)
    publisher.publish(entry(other), readonly(ended, 20, wrong), readonly(grown, 270, wrong))
    await look_again(service, publisher, 61)
    for log in (ended, grown):
        await is_suspect(service, log)
    await eventually(lambda: stands_at(service, url_of(grown, "rfc6962")) == 270)
    cases = [json.loads(path.read_text()) for path in (service.directory / "evidence").glob("*.json")]
    assert {(case["log"]["name"], case["kind"]) for case in cases} == {("ended", "two_roots"), ("grown", "two_roots")}
    suspects = {log["name"]: log["suspect"] for log in (await service.health())["logs"]}
    assert suspects == {"other": False, "ended": True, "grown": True}


async def test_a_log_that_was_read_beyond_its_final_tree_head_is_compared_there_and_left_in_peace(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    right, wrong = SimulatedLog("right", initial=300), SimulatedLog("wrong", initial=300, seed=1)
    await simulate(right, wrong)
    publisher.publish(entry(right), entry(wrong, "static"))
    service = await begin({**listing(publisher), **ON})
    for log in (right, wrong):
        await log_has_position(service, log)
    publisher.publish(readonly(right, 270, right.tree.root(270)), readonly(wrong, 270, bytes(32), "static"))
    await look_again(service, publisher, 61)
    await is_suspect(service, wrong)
    grown = "log grew past its final tree head"
    await eventually(lambda: len([line for line in service.lines if line["event"] == grown]) == 2)
    logs = {log["name"]: log for log in (await service.health())["logs"]}
    assert {name: (log["state"], log["suspect"], log["position"]) for name, log in logs.items()} == {
        "right": ("following", False, 300),
        "wrong": ("following", True, 300),
    }


def without_key(log: SimulatedLog, **more: Any) -> dict[str, Any]:
    return {"custom_logs": [{"name": "mine", "url": log.url("rfc6962"), **more}]}


async def test_a_configured_log_without_a_key_is_verified_by_that_of_the_list(
    begin: StartService, simulate: Simulate, publisher: Publisher
) -> None:
    log, listed = SimulatedLog("log", initial=10), SimulatedLog("listed", initial=10, seed=1)
    await simulate(log, listed)
    publisher.publish(entry(log), entry(listed))
    service = await begin({**listing(publisher), **without_key(log, verification="enforce")})
    await service.until(lambda line: line.get("log") == "mine" and line.get("position") is not None)
    (health,) = (await service.health())["logs"]
    assert (health["name"], health["verification"]) == ("mine", "enforce")
    assert listed.endpoints.total() == 0, "the lists are asked for keys alone"


async def test_a_log_that_says_enforce_without_a_known_key_stops_the_start(
    begin: StartService, tmp_path: Path, simulate: Simulate, publisher: Publisher
) -> None:
    log, other = SimulatedLog("log", initial=10), SimulatedLog("other", seed=1)
    await simulate(log, other)
    publisher.publish(entry(other))
    options = {**listing(publisher), **without_key(log, verification="enforce")}
    ended = await run(tmp_path, options)
    assert ended.code == 1
    (mistake,) = [line["event"] for line in ended.lines if "mine" in line["event"]]
    assert log.url("rfc6962") in mistake
    assert "verification: off" in mistake
    with pytest.raises(ConfigError, match=r"mine .*log_lists.enabled is false.*verification: off"):
        await begin({**listing(publisher, log_lists={"enabled": False}), **without_key(log, verification="enforce")})
    options = {**listing(publisher), **without_key(log, verification="off")}
    requests = len(publisher.requests)
    service = await begin(options)
    await service.until(lambda line: line.get("log") == "mine" and line.get("position") is not None)
    assert len(publisher.requests) == requests, "no list is asked where nothing is verified"


@pytest.mark.parametrize("flag", ["--demo", "--dry-run"])
async def test_a_demo_and_a_dry_run_ask_no_list(start_service: StartService, publisher: Publisher, flag: str) -> None:
    service = await start_service(listing(publisher, log_lists={"enabled": True}), flag)
    health = await service.health()
    assert health["lists"] == []
    assert followed(health) == ([] if flag == "--dry-run" else ["demo-rfc6962", "demo-static-ct"])
    assert (await service.stop())[0] == 0
    assert publisher.requests == []
    assert not (service.directory / KEPT).exists()
