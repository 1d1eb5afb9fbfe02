"""When a log says that it is not read in time: on a clock of the test's."""

from __future__ import annotations

import math

from structlog.testing import capture_logs
from structlog.typing import EventDict

from certstream.client.waits import Waits
from certstream.ct.types import LogInfo
from certstream.delivery_metrics import DELAY_CAUSES
from certstream.live.delivery import LogDelivery
from certstream.live.share import ShareSettings
from certstream.metrics import Metrics
from tests.client.reading_support import FakeTime

INFO = LogInfo("followed", "https://log.example/", "rfc6962", "operator")


class Delivered:
    """A log of which a share is read, tick by tick."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.metrics = Metrics()
        self.waits = Waits(self.time.clock.monotonic)
        self.delivery = LogDelivery(
            INFO, self.waits, self.metrics.log(INFO.name), self.time.clock, ShareSettings(window_s=100, below_s=60)
        )
        self.size = self.position = 0
        self.delivery.seen(0, 0)

    def ticks(self, count: int, read: int) -> None:
        """So many ticks, in each of which 100 entries come and `read` are read."""
        for _ in range(count):
            with self.waits.on("reading"), self.waits.on("pacing"):
                self.time.now_s += 10
            self.size += 100
            self.delivery.seen(self.size, self.position)
            self.position = min(self.size, self.position + read)
            self.delivery.read(self.position)
            self.delivery.measure(0.0)

    def shown(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(name, {"log": INFO.name, **labels})
        assert value is not None
        return value


def said(lines: list[EventDict]) -> list[str]:
    return [f"{line['log_level']}: {line['event']}" for line in lines]


def test_a_log_that_is_late_for_a_minute_says_so_once_and_says_once_that_it_is_over() -> None:
    log = Delivered()
    with capture_logs() as lines:
        log.ticks(20, 100)
        log.ticks(6, 50)
        assert lines == []
        log.ticks(20, 50)
        assert said(lines) == ["warning: log is not read in time"]
        assert (lines[0]["log"], lines[0]["cause"], lines[0]["share"] < 0.95) == ("followed", "rate_limited", True)
        assert lines[0]["late_entries"] > 0
        log.ticks(1, 100_000)
        log.ticks(30, 100)
    assert said(lines) == ["warning: log is not read in time", "info: log is read in time again"]


def test_a_short_delay_says_nothing() -> None:
    log = Delivered()
    with capture_logs() as lines:
        log.ticks(20, 100)
        for _ in range(5):
            log.ticks(4, 0)
            log.ticks(2, 1_000)
    assert lines == []


def test_between_the_two_thresholds_nothing_changes() -> None:
    log = Delivered()
    with capture_logs() as lines:
        log.ticks(60, 97)  # the first 33 are late by less than a tick
        assert 0.95 < log.shown("certstream_log_delivery_share") < 0.99
        assert lines == []
        log.ticks(20, 50)
        log.ticks(30, 97)
    assert said(lines) == ["warning: log is not read in time"]


def test_metrics_show_the_share_and_what_holds_back_the_rest() -> None:
    log = Delivered()
    assert math.isnan(log.shown("certstream_log_delivery_share"))
    log.ticks(20, 50)
    assert log.shown("certstream_log_delivery_share") == 0.5
    causes = {cause: log.shown("certstream_log_delivery_cause", cause=cause) for cause in DELAY_CAUSES}
    assert causes == {cause: float(cause == "rate_limited") for cause in DELAY_CAUSES}
    log.ticks(1, 100_000)
    assert log.shown("certstream_log_delivery_share") == 1
    assert {log.shown("certstream_log_delivery_cause", cause=cause) for cause in DELAY_CAUSES} == {0}


def test_a_log_that_is_forgotten_leaves_no_series() -> None:
    log = Delivered()
    log.ticks(5, 50)
    log.metrics.forget_log(INFO.name)
    assert log.metrics.registry.get_sample_value("certstream_log_delivery_share", {"log": INFO.name}) is None
    assert b'log="followed"' not in log.metrics.exposition()
