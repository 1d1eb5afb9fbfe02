"""The real process takes up what changes in its configuration, and drops no client for it."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from websockets.exceptions import InvalidStatus

from certstream.ct.types import LogInfo
from certstream.simulator.log import SimulatedLog
from tests.archive.archive_support import held
from tests.archive.sink_support import Pipe, positions
from tests.e2e.command_support import MAIN, archive_options
from tests.e2e.e2e_support import PATIENCE_S, Service, Simulate, StartService, options_for
from tests.e2e.reload_support import ON, edit, write


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def metric(service: Service, name: str) -> float | None:
    _, text = await service.get("/metrics")
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), None)


async def status(service: Service, token: str) -> int:
    """What a WebSocket client with that token is answered."""
    try:
        async with service.listen(headers=bearer(token)):
            return 101
    except InvalidStatus as exc:
        return exc.response.status_code


async def test_a_client_stays_while_a_log_comes_and_goes_a_token_and_the_level_change(
    start_service: StartService, simulate: Simulate
) -> None:
    a, b = (SimulatedLog(name, kinds={"rfc6962"}, initial=10, seed=seed) for seed, name in enumerate("ab"))
    server = await simulate(a, b)
    info_a, info_b = server.infos()
    first = {**options_for([info_a]), **ON, "auth": {"enabled": True, "tokens": ["one"]}}
    second = {**options_for([info_a, info_b]), **ON, "auth": {"enabled": True, "tokens": ["two"]}}
    service = await start_service(first)
    await service.until_following(info_a)
    async with service.listen(headers=bearer("one")) as client:
        await edit(service, {**second, "log_level": "debug"})
        await service.until_following(info_b)
        a.grow(5)
        b.grow(5)
        await client.until_index("a rfc6962", 14)
        await client.until_index("b rfc6962", 14)
        assert [await status(service, token) for token in ("one", "two")] == [401, 101]
        lines = await edit(service, first, by=write)
        assert {line["option"] for line in lines if line["event"] == "option changed"} == {
            "auth.tokens",
            "custom_logs",
            "log_level",
        }
        assert [log["name"] for log in (await service.health())["logs"]] == ["a rfc6962"]
        assert 'log="b rfc6962"' not in (await service.get("/metrics"))[1]
        assert [await status(service, token) for token in ("one", "two")] == [101, 401]
        b.grow(5)
        a.grow(5)
        await client.until_index("a rfc6962", 19)
        assert client.indices("b rfc6962") == list(range(10, 15)), "it is followed no more"
        await edit(service, second)
        await client.until_index("b rfc6962", 19)
        assert client.indices("a rfc6962") == list(range(10, 20))
        assert client.indices("b rfc6962") == list(range(10, 20)), "from where it was left"
    assert (await service.stop())[0] == 0
    assert service.state["logs"][info_b.base_url]["current_index"] == 20


async def test_an_invalid_edit_is_told_and_mended_and_what_needs_a_restart_is_named(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=10, seed=1)
    server = await simulate(log)
    options = {**options_for(server.infos()), **ON}
    service = await start_service(options)
    await service.until_following(*server.infos())
    async with service.listen() as client:
        lines = await edit(
            service, {**options, "log_level": "loud", "dedup": {"size": 1}}, until="mistake in the configuration"
        )
        await service.until(lambda line: "log_level" in line.get("mistake", ""))
        assert [line["level"] for line in lines] == ["error"] * len(lines)
        assert (await metric(service, "certstream_config_in_effect")) == 0
        assert (await metric(service, 'certstream_config_reloads_total{result="invalid"}')) == 1
        (warning,) = (await service.health())["warnings"]
        assert "dedup.size: unknown option" in warning
        faster = {**options, "ct_log": {**options["ct_log"], "batch_size": 3}}
        lines = await edit(service, {**faster, "dedup": {"capacity": 7}, "tls_cert": "x.pem", "tls_key": "x.key"})
        named = [line["option"] for line in lines if line["event"] == "option takes effect with a restart"]
        assert named == ["tls_cert", "tls_key", "dedup.capacity"]
        assert len((await service.health())["warnings"]) == 3
        assert (await metric(service, "certstream_config_in_effect")) == 0
        log.grow(5)
        await client.until_index("log static", 14)
        await edit(service, options)
        assert (await service.health())["warnings"] == []
        assert (await metric(service, "certstream_config_in_effect")) == 1
        log.grow(5)
        await client.until_index("log static", 19)
        assert client.indices("log static") == list(range(10, 20))


async def test_a_log_that_waits_for_its_operators_limit_goes_on_when_that_is_lifted(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    server = await simulate(log)
    slow = {**options_for(server.infos(), start="beginning", default_operator_rate_limit_ms=600_000), **ON}
    service = await start_service(slow)
    async with service.listen() as client:
        async with asyncio.timeout(PATIENCE_S):
            while not log.endpoints.total():  # noqa: ASYNC110 - a counter tells nobody
                await asyncio.sleep(0.01)
        await edit(service, {**slow, "ct_log": {**slow["ct_log"], "default_operator_rate_limit_ms": 0}})
        await client.until_index("log rfc6962", 9)


def archiving(*infos: LogInfo) -> dict[str, Any]:
    """With the archive on, which commits at the end only."""
    sink = {"enabled": True, "flush_interval_secs": 3600}
    return {**archive_options(list(infos), delta_sink=sink), **ON}


async def test_a_log_that_comes_goes_and_comes_again_by_another_name_is_archived_whole(
    start_service: StartService, simulate: Simulate
) -> None:
    a, b = (SimulatedLog(name, kinds={"rfc6962"}, initial=10, seed=seed) for seed, name in enumerate("ab"))
    server = await simulate(a, b)
    info_a, info_b = server.infos()
    both = archiving(info_a, info_b)
    service = await start_service(archiving(info_a))
    await service.until_following(info_a)
    async with service.listen() as client:
        await edit(service, both)
        await service.until_following(info_b)
        b.grow(20)
        await client.until_index("b rfc6962", 29)
        await edit(service, archiving(info_a))
        b.grow(20)
        both["custom_logs"][1]["name"] = "c"
        await edit(service, both)
        await client.until_index("c", 49)
        a.grow(20)
        await client.until_index("a rfc6962", 29)
    assert (await service.stop())[0] == 0
    main = service.directory / MAIN
    assert held(main) == {info_a.base_url: list(range(10, 30)), info_b.base_url: list(range(10, 50))}
    assert positions(main, info_a.base_url, info_b.base_url) == [30, 50]


async def test_a_log_that_comes_back_is_read_again_from_where_its_archive_ended(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"static"}, initial=10, seed=1)
    server = await simulate(log)
    (info,) = server.infos()
    service = await start_service(archiving(info))
    await service.until_following(info)
    async with service.listen() as client:
        log.grow(20)
        await client.until_index("log static", 29)
    async with asyncio.timeout(PATIENCE_S):
        while service.state["logs"][info.base_url]["current_index"] < 30:  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
    service.send(signal.SIGKILL)
    await service.exit_code()
    service.options = archiving()
    await service.start()
    await edit(service, archiving(info))
    async with asyncio.timeout(PATIENCE_S):
        while await metric(service, "certstream_delta_entries_reread_total") != 20:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    assert (await service.stop())[0] == 0
    assert held(service.directory / MAIN) == {info.base_url: list(range(10, 30))}


async def test_a_file_that_hangs_holds_neither_streams_nor_the_end(
    start_service: StartService, simulate: Simulate
) -> None:
    log = SimulatedLog("log", kinds={"rfc6962"}, initial=10, seed=1)
    server = await simulate(log)
    service = await start_service({**options_for(server.infos()), **ON})
    await service.until_following(*server.infos())
    with Pipe(service.directory / "pipe", b"") as pipe:
        (service.directory / "link").symlink_to("pipe")
        (service.directory / "link").replace(service.directory / "config.yaml")
        async with service.listen() as client:
            await pipe.reached()
            log.grow(5)
            await client.until_index("log rfc6962", 14)
        code, seconds = await service.stop()
    assert (code, seconds < 2) == (0, True)
