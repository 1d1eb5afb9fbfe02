"""The configuration reaches the parts."""

from __future__ import annotations

import resource

from certstream.app.run import raise_open_files_limit
from certstream.app.settings import configured_logs, fetch_settings, stream_kinds, tail_settings
from certstream.client.clock import Clock
from certstream.client.http import DEFAULT_USER_AGENT
from certstream.client.pacing import Pacing
from certstream.config import Config, CtLogConfig, StreamsConfig

LOGS = {
    "custom_logs": [{"name": "a", "url": "https://a.example/", "start": 7, "batch_size": 5, "poll_interval_ms": 250}],
    "static_logs": [{"name": "b", "url": "https://b.example/", "operator": "someone"}],
}


def test_logs_are_followed_as_their_entries_say() -> None:
    first, second = configured_logs(Config.model_validate(LOGS))
    assert (first.info.kind, first.start, first.batch_size, first.poll_interval_s) == ("rfc6962", 7, 5, 0.25)
    assert (second.info.kind, second.start, second.batch_size, second.poll_interval_s) == ("static", "head", None, None)
    assert second.info.operator == "someone"
    ct_log = CtLogConfig(poll_interval_ms=3000)
    assert tail_settings(ct_log, first).poll_interval_s == 0.25
    assert tail_settings(ct_log, second).poll_interval_s == 3


def test_protocols_that_are_off_are_not_followed() -> None:
    off = Config.model_validate({**LOGS, "ct_log": {"static_ct_enabled": False}})
    assert [log.info.name for log in configured_logs(off)] == ["a"]


async def test_operator_limits_become_rates_and_0_is_no_limit() -> None:
    ct_log = CtLogConfig(default_operator_rate_limit_ms=500, operator_rate_limits={"slow": 2000, "free": 0})
    pacing = Pacing(fetch_settings(ct_log).pace, Clock())
    assert pacing.of("anyone").rate_per_s == 2
    assert pacing.of("slow").rate_per_s == 0.5
    assert pacing.of("free").rate_per_s is None


def test_without_limits_there_is_no_pace_and_the_agent_is_ours() -> None:
    settings = fetch_settings(CtLogConfig())
    assert (settings.prefetch, settings.pace.in_flight) == (8, 16)
    assert fetch_settings(CtLogConfig(fetch_concurrency=64)).prefetch >= 64
    assert settings.pace.default_rate_per_s is None
    assert settings.user_agent == DEFAULT_USER_AGENT
    assert fetch_settings(CtLogConfig(user_agent="me/1 (me@example.com)")).user_agent == "me/1 (me@example.com)"


def test_streams_that_are_off_are_not_encoded() -> None:
    assert stream_kinds(StreamsConfig(full=False)) == ["lite", "domains"]


def test_open_files_limit_is_raised_to_what_is_allowed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        raise_open_files_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
