"""When /health/ready says no: on a clock of the test's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from certstream.app.delivery import DeliveryWatch
from certstream.ct.types import LogInfo
from certstream.delivery_metrics import DelayCause
from certstream.live.share import LogShare
from certstream.live.tailer import TailStatus
from certstream.metrics import Metrics
from certstream.serve.health import LateLog
from tests.client.reading_support import FakeTime


@dataclass
class Logs:
    """Logs with shares that the test says."""

    shares: dict[str, LogShare | None] = field(default_factory=dict)
    answered: bool = True
    busy: list[float] = field(default_factory=list)

    def measure(self, busy: float) -> None:
        self.busy.append(busy)

    def statuses(self) -> list[TailStatus]:
        success_s = 1.0 if self.answered else None
        return [
            TailStatus(
                LogInfo(name, f"https://{name}/", "static", "op"), "following", 1, 1, 0, None, success_s, None, share
            )
            for name, share in self.shares.items()
        ]


class Watched:
    def __init__(self, min_share: float = 0.5) -> None:
        self.time = FakeTime()
        self.metrics = Metrics()
        self.logs = Logs()
        self.min_share = min_share
        self.lacks_lists = False
        self.watch = DeliveryWatch(
            self.logs,
            self.metrics.delivery,
            lambda: self.min_share,
            lacks_lists=lambda: self.lacks_lists,
            clock=self.time.clock,
        )

    def ticks(self, count: int, **shares: LogShare) -> None:
        self.logs.shares = {**shares}
        for _ in range(count):
            self.time.now_s += 10
            self.watch.measure(0.0)

    @property
    def ready(self) -> bool:
        return self.watch.readiness().reason is None

    def shown(self) -> float:
        value = self.metrics.registry.get_sample_value("certstream_delivery_share")
        assert value is not None
        return value


def share(of: float, growth: float = 100, cause: DelayCause = "cpu") -> LogShare:
    return LogShare(of, None if of == 1 else cause, growth, round(growth * (1 - of)))


def test_without_logs_the_service_is_ready() -> None:
    watched = Watched()
    assert watched.ready
    assert math.isnan(watched.shown())


def test_while_no_log_list_could_be_had_and_no_log_is_followed_it_is_not_ready() -> None:
    watched = Watched()
    watched.lacks_lists = True
    assert watched.watch.readiness().reason == "no log is followed: no log list could be had yet"
    watched.ticks(1, mine=share(1))
    assert watched.ready, "a configured log is followed all the same"
    watched.lacks_lists = False
    assert Watched().ready


def test_until_one_log_has_answered_it_is_not() -> None:
    watched = Watched()
    watched.logs = Logs({"a": None, "b": None}, answered=False)
    watched.watch = DeliveryWatch(watched.logs, watched.metrics.delivery, lambda: 0.5, clock=watched.time.clock)
    assert watched.watch.readiness().reason == "no log has answered yet"
    watched.logs.answered = True
    assert watched.ready
    assert watched.watch.readiness().share is None


def test_below_the_least_share_for_five_minutes_it_is_not_ready_and_back_above_it_is_at_once() -> None:
    watched = Watched()
    with capture_logs() as lines:
        watched.ticks(30, a=share(0.2), b=share(0.6))
        assert watched.ready
        assert watched.watch.readiness().share == watched.shown() == pytest.approx(0.4)
        assert lines == []
        watched.ticks(1, a=share(0.2), b=share(0.6))
        assert not watched.ready
        watched.ticks(20, a=share(0.2), b=share(0.6))
        assert not watched.ready
        watched.ticks(1, a=share(0.4), b=share(0.6))
        assert watched.ready
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("warning", "service does not keep up with its logs"),
        ("info", "service keeps up with its logs again"),
    ]


def test_five_minutes_begin_anew_each_time() -> None:
    watched = Watched()
    for _ in range(4):
        watched.ticks(25, a=share(0.1))
        watched.ticks(1, a=share(1.0))
    watched.ticks(30, a=share(0.1))
    assert watched.ready


def test_once_no_log_is_followed_any_more_nothing_is_said_of_those_before() -> None:
    watched = Watched()
    watched.ticks(40, a=share(0.1))
    assert not watched.ready
    watched.ticks(1)
    assert watched.ready
    assert watched.watch.share is None
    assert math.isnan(watched.shown())
    watched.ticks(30, b=share(0.1))
    assert watched.ready


def test_one_log_that_stands_still_does_not_make_the_service_unready() -> None:
    watched = Watched()
    watched.ticks(100, still=share(0.0, 300), well=share(1.0, 300), quick=share(1.0, 100))
    assert watched.ready


def test_the_answer_names_the_logs_by_which_most_is_missing() -> None:
    watched = Watched()
    small = {f"small{number}": share(0.0, 10, "not_polled") for number in range(6)}
    watched.ticks(40, well=share(1.0, 10), **small, large=share(0.2, 10_000, "slow_answers"))
    readiness = watched.watch.readiness()
    assert readiness.reason is not None
    assert "health.min_share" in readiness.reason
    assert readiness.logs[0] == LateLog("large", 0.2, "slow_answers", 8_000)
    assert [log.cause for log in readiness.logs[1:]] == ["not_polled"] * 4


def test_a_least_share_of_none_is_always_reached_and_a_change_of_it_counts_at_once() -> None:
    watched = Watched(min_share=0.0)
    watched.ticks(100, a=share(0.0))
    assert watched.ready
    watched.min_share = 0.5
    watched.ticks(31, a=share(0.0))
    assert not watched.ready
    watched.min_share = 0.0
    watched.ticks(1, a=share(0.0))
    assert watched.ready


async def test_while_it_runs_it_measures_every_tick_and_how_busy_the_event_loop_was() -> None:
    watched = Watched()

    def stop() -> None:
        if len(watched.logs.busy) == 5:
            raise KeyError("enough")

    watched.time.on_sleep = stop
    with pytest.raises(KeyError):
        await watched.watch.run()
    assert watched.time.slept == [10.0] * 6
    assert all(0 <= busy < 0.1 for busy in watched.logs.busy)
