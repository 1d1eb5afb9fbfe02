from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from structlog.testing import capture_logs

from certstream.live.condition import TailSettings
from certstream.live.supervisor import Supervisor
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from tests.client.reading_support import Reader, reading
from tests.live.following_support import Follower


def make_log(name: str, initial: int = 300) -> SimulatedLog:
    return SimulatedLog(name, seed=11, initial=initial)


@asynccontextmanager
async def supervised(reader: Reader, *followers: Follower) -> AsyncIterator[Supervisor]:
    def notify() -> None:
        for follower in followers:
            follower.notify()

    reader.time.on_sleep = notify
    supervisor = Supervisor([follower.tailer for follower in followers], reader.time.clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run())
        yield supervisor
        await supervisor.stop(5)


async def test_all_logs_are_followed_and_each_has_a_status() -> None:
    one, two = make_log("one"), make_log("two")
    async with reading(one, two) as reader:
        followers = [Follower(reader, one, "rfc6962"), Follower(reader, two, "static", partial_tile_wait_s=0)]
        async with supervised(reader, *followers) as supervisor:
            for follower in followers:
                await follower.until_read(300)
            assert [(s.log.name, s.position, s.state) for s in supervisor.statuses()] == [
                ("one", 300, "following"),
                ("two", 300, "following"),
            ]
            names = {task.get_name() for task in asyncio.all_tasks()}
            assert {"tail:one", "tail:two"} <= names
        assert [s.state for s in supervisor.statuses()] == ["stopped", "stopped"]
        assert [follower.check(0) for follower in followers] == [300, 300]


async def test_a_tailer_that_crashes_goes_on_where_it_was_and_no_other_notices() -> None:
    one, two = make_log("one"), make_log("two")
    async with reading(one, two) as reader:
        broken = Follower(reader, one, "rfc6962", batch_size=100)
        other = Follower(reader, two, "rfc6962")
        broken.fails_on = 150
        with capture_logs() as lines:
            async with supervised(reader, broken, other):
                await broken.until(lambda: reader.counted("certstream_log_errors_total", log="one", kind="Crash") >= 3)
                assert broken.position == 100
                assert broken.state == "degraded"
                assert "cannot be published" in str(broken.tailer.status().last_error)
                await other.until_read(300)
                assert other.state == "following"
                broken.fails_on = None
                await broken.until_read(300)
        assert broken.check(0) == 300
        assert other.check(0) == 300
    crashes = [line for line in lines if line["log_level"] == "error"]
    assert len(crashes) >= 3
    assert crashes[0]["log"] == "one"
    assert crashes[0]["exc_info"], "with its traceback"


async def test_a_log_that_waits_at_a_broken_tile_holds_no_other() -> None:
    one, two = make_log("one"), make_log("two")
    one.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=100))
    async with reading(one, two) as reader:
        settings = TailSettings(retry_max_attempts=1)
        broken = Follower(reader, one, "static", settings=settings, partial_tile_wait_s=0)
        other = Follower(reader, two, "static", settings=settings, partial_tile_wait_s=0)
        async with supervised(reader, broken, other):
            await broken.until(lambda: broken.state == "unhealthy")
            two.grow(50)
            await other.until_read(350)
            assert other.states[-1] == "following"
        assert broken.check(0) == 100
        assert other.check(0) == 350


async def test_stopping_finishes_the_batch_in_hand_and_begins_no_other() -> None:
    log = make_log("one", 500)
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962", batch_size=100)
        follower.hold = asyncio.Event()
        supervisor = Supervisor([follower.tailer], reader.time.clock)
        running = asyncio.create_task(supervisor.run())
        await follower.until(lambda: follower.begun == [0])
        hold = follower.hold
        stop = follower.tailer.stop

        def stop_and_let_go() -> bool:
            publishing = stop()
            hold.set()
            return publishing

        follower.tailer.stop = stop_and_let_go  # type: ignore[method-assign]
        await supervisor.stop(5)
        await running
        assert follower.check(0) == 100
        assert follower.begun == [0]
        assert follower.state == "stopped"


async def test_a_batch_that_does_not_end_in_time_is_dropped_and_its_position_stays() -> None:
    log = make_log("one", 500)
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962", batch_size=100)
        follower.hold = asyncio.Event()
        supervisor = Supervisor([follower.tailer], reader.time.clock)
        running = asyncio.create_task(supervisor.run())
        await follower.until(lambda: follower.begun == [0])
        with capture_logs() as lines:
            await supervisor.stop(0.02)
            await running
        assert follower.batches == []
        assert follower.position == 0
        assert [line["log"] for line in lines if line["log_level"] == "warning"] == ["one"]


async def test_stopping_waits_for_no_log_that_stalls_sleeps_or_crashed() -> None:
    logs = [make_log(name) for name in ("stalls", "sleeps", "crashed")]
    logs[0].faults.add(Fault(FaultKind.STALL))
    async with reading(*logs) as reader:
        followers = [Follower(reader, log, "rfc6962") for log in logs]
        followers[2].fails_on = 0
        async with supervised(reader, *followers) as supervisor:
            await logs[0].until(lambda: logs[0].endpoints.total() == 1)
            await followers[1].until_read(300)
            await followers[2].until(lambda: followers[2].state == "degraded")
            before = asyncio.get_running_loop().time()
            await supervisor.stop(60)
            assert asyncio.get_running_loop().time() - before < 5
        assert followers[0].position is None
        assert followers[1].check(0) == 300
        assert followers[2].position == 0


async def test_without_logs_it_runs_until_it_is_stopped() -> None:
    supervisor = Supervisor([])
    running = asyncio.create_task(supervisor.run())
    _, pending = await asyncio.wait([running], timeout=0.05)
    assert pending == {running}
    await supervisor.stop(1)
    await running
    assert supervisor.statuses() == []


async def test_stopped_before_it_ran_it_starts_nothing() -> None:
    log = make_log("one")
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962")
        supervisor = Supervisor([follower.tailer], reader.time.clock)
        await supervisor.stop(1)
        await supervisor.run()
        assert log.endpoints.total() == 0


async def test_a_tailer_that_crashes_while_it_is_stopped_is_not_started_again() -> None:
    log = make_log("one", 500)
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962", batch_size=100)
        follower.hold, follower.fails_on = asyncio.Event(), 0
        supervisor = Supervisor([follower.tailer], reader.time.clock)
        running = asyncio.create_task(supervisor.run())
        await follower.until(lambda: follower.begun == [0])
        hold, crashed = follower.hold, follower.tailer.crashed
        stop = follower.tailer.stop

        def stop_and_let_go() -> bool:
            publishing = stop()
            hold.set()
            return publishing

        slept_at_crash: list[int] = []

        def crash(error: Exception) -> None:
            slept_at_crash.append(len(reader.time.slept))
            crashed(error)

        follower.tailer.stop = stop_and_let_go  # type: ignore[method-assign]
        follower.tailer.crashed = crash  # type: ignore[method-assign]
        await supervisor.stop(5)
        await running
        assert slept_at_crash == [len(reader.time.slept)], "crashed once, and nothing was waited for after it"
        assert follower.begun == [0]
        assert follower.position == 0


async def test_a_log_that_is_left_ends_after_its_batch_and_the_others_go_on() -> None:
    one, two = make_log("one", 500), make_log("two")
    async with reading(one, two) as reader:
        leaves = Follower(reader, one, "rfc6962", batch_size=100)
        stays = Follower(reader, two, "rfc6962")
        leaves.hold = asyncio.Event()
        async with supervised(reader, leaves, stays) as supervisor:
            await leaves.until(lambda: leaves.begun == [0])
            leaving = asyncio.create_task(supervisor.leave([leaves.tailer], 60))
            done, _ = await asyncio.wait([leaving], timeout=0.05)
            assert not done, "the batch in hand is waited for"
            leaves.hold.set()
            await leaving
            assert [status.log.name for status in supervisor.statuses()] == ["two"]
            two.grow(50)
            await stays.until_read(350)
        assert leaves.check(0) == 100
        assert leaves.begun == [0]
        assert leaves.state == "stopped"


async def test_a_log_that_is_left_and_followed_anew_goes_on_at_its_position() -> None:
    log = make_log("one", 300)
    async with reading(log) as reader:
        first = Follower(reader, log, "rfc6962", batch_size=100)
        async with supervised(reader, first) as supervisor:
            await first.until_read(300)
            await supervisor.leave([first.tailer], 60)
            log.grow(100)
            second = Follower(reader, log, "rfc6962", batch_size=7, position=first.position)
            supervisor.follow(second.tailer)
            await second.until_read(400)
            assert [status.position for status in supervisor.statuses()] == [400]
        assert first.check(0) == 300
        assert second.check(300) == 400


async def test_leaving_waits_for_no_log_that_stalls_and_gives_up_a_batch_that_does_not_end() -> None:
    logs = [make_log(name) for name in ("stalls", "hangs", "crashes")]
    logs[0].faults.add(Fault(FaultKind.STALL))
    async with reading(*logs) as reader:
        followers = [Follower(reader, log, "rfc6962") for log in logs]
        followers[1].hold = asyncio.Event()
        followers[2].fails_on = 0
        async with supervised(reader, *followers) as supervisor:
            await logs[0].until(lambda: logs[0].endpoints.total() == 1)
            await followers[1].until(lambda: followers[1].begun == [0])
            await followers[2].until(lambda: followers[2].state == "degraded")
            async with asyncio.timeout(10):
                await supervisor.leave([follower.tailer for follower in followers], 0.02)
            assert supervisor.statuses() == []
            assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("tail:")]
        assert [follower.batches for follower in followers] == [[], [], []]
        assert followers[1].position == 0


async def test_a_log_that_comes_after_the_stop_is_not_read() -> None:
    log = make_log("one")
    async with reading(log) as reader:
        follower = Follower(reader, log, "rfc6962")
        async with supervised(reader) as supervisor:
            await supervisor.stop(1)
            supervisor.follow(follower.tailer)
        assert log.endpoints.total() == 0
