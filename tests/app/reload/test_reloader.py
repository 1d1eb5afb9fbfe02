"""What becomes of a file that changes: taken up, refused with its mistakes, or named as needing a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from structlog.testing import capture_logs

from certstream.app.reload.reloader import Reloader
from certstream.app.settings import access_settings
from certstream.config import Config, load_config
from certstream.errors import ConfigError
from certstream.logging_setup import setup_logging
from certstream.metrics import RELOAD_RESULTS, Metrics

PATIENCE_S = 30.0


def put(file: Path, text: str) -> None:
    """At once, so that no look finds it half written."""
    new = file.with_name("new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(file)


class Reloading:
    """A reloader on a file, and what it applied."""

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self.file = file
        self.applied: list[Config] = []
        self.fails_with: Exception | None = None
        self.refuses: str | None = None  # a value of ct_log.user_agent that the parts cannot be given
        self.metrics = Metrics()
        self._turned = asyncio.Event()
        loaded = load_config(file, environ)
        self.effective = loaded.config
        self.reloader = Reloader(
            loaded, self.metrics, prepare=self._prepare, apply=self._apply, environ=environ, interval_s=0.01
        )
        # After each turn of the reloader, whatever it came to
        self.metrics.config_in_effect = _Told(self.metrics.config_in_effect, self._turned)  # type: ignore[assignment]

    def _prepare(self, config: Config) -> Config:
        if self.refuses is not None and config.ct_log.user_agent == self.refuses:
            raise ConfigError("ct_log.user_agent: is refused")
        access_settings(config, {})  # which reads the file of tokens
        return config

    async def _apply(self, config: Config) -> bool:
        if self.fails_with is not None:
            raise self.fails_with
        changed, self.effective = config != self.effective, config
        self.applied += [config] if changed else []
        return changed

    async def turn(self) -> None:
        """Wait for the next time that the file was read."""
        async with asyncio.timeout(PATIENCE_S):
            await self._turned.wait()
        self._turned.clear()

    async def write(self, **options: Any) -> None:
        put(self.file, yaml.safe_dump(options))
        await self.turn()

    def count(self) -> dict[str, float | None]:
        get = self.metrics.registry.get_sample_value
        return {result: get("certstream_config_reloads_total", {"result": result}) for result in RELOAD_RESULTS}

    @property
    def in_effect(self) -> bool:
        return self.metrics.registry.get_sample_value("certstream_config_in_effect") == 1


class _Told:
    def __init__(self, gauge: Any, event: asyncio.Event) -> None:
        self._gauge = gauge
        self._event = event

    def set(self, value: float) -> None:
        self._gauge.set(value)
        self._event.set()


@asynccontextmanager
async def reloading(
    tmp_path: Path, environ: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[Reloading]:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(options))
    own = Reloading(file, environ or {})
    running = asyncio.create_task(own.reloader.run())
    try:
        await own.turn()
        yield own
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def events(lines: list[Any]) -> list[str]:
    return [line["event"] for line in lines]


async def test_the_file_as_it_was_loaded_changes_nothing(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with reloading(tmp_path, port=1) as own:
            assert own.applied == []
            assert own.count() == {"applied": 0, "invalid": 0, "failed": 0}
            assert own.in_effect
            assert own.reloader.warnings() == []
            await own.write(port=1)
    assert events(lines) == ["watching the configuration"]


async def test_a_change_is_applied_and_told(tmp_path: Path) -> None:
    async with reloading(tmp_path, auth={"tokens": ["hunter2"]}) as own:
        with capture_logs() as lines:
            await own.write(ct_log={"batch_size": 7}, auth={"tokens": ["hunter3"]})
        (applied,) = own.applied
        assert (applied.ct_log.batch_size, applied.auth.tokens) == (7, ("hunter3",))
        assert own.count()["applied"] == 1
        assert own.in_effect
    told = [(line["option"], line["before"], line["after"]) for line in lines if line["event"] == "option changed"]
    assert told == [("ct_log.batch_size", "1024", "7"), ("auth.tokens", "***", "***")]
    assert "hunter" not in str(lines)


async def test_the_environment_stays_above_the_file(tmp_path: Path) -> None:
    environ = {"CERTSTREAM_CT_LOG_BATCH_SIZE": "9", "CERTSTREAM_AUTH_ENABLED": "true", "CERTSTREAM_AUTH_TOKENS": "a"}
    async with reloading(tmp_path, environ, ct_log={"poll_interval_ms": 100}) as own:
        await own.write(ct_log={"batch_size": 7, "poll_interval_ms": 200})
        (applied,) = own.applied
        assert (applied.ct_log.batch_size, applied.ct_log.poll_interval_ms) == (9, 200)
        assert (applied.auth.enabled, applied.auth.tokens) == (True, ("a",))


async def test_a_file_with_mistakes_is_told_line_by_line_and_the_old_one_stays(tmp_path: Path) -> None:
    async with reloading(tmp_path, ct_log={"batch_size": 7}) as own:
        with capture_logs() as lines:
            await own.write(ct_log={"batch_size": 0, "polls": 1}, log_level="debug")
        assert own.applied == []
        assert own.count() == {"applied": 0, "invalid": 1, "failed": 0}
        assert not own.in_effect
        mistakes = [line["mistake"] for line in lines if line["event"] == "mistake in the configuration"]
        assert [mistake.partition(":")[0] for mistake in mistakes] == ["ct_log.polls", "ct_log.batch_size"]
        (warning,) = own.reloader.warnings()
        assert "ct_log.polls: unknown option" in warning
        assert "and 1 more" in warning
        with capture_logs() as lines:
            await own.write(ct_log={"batch_size": 7})
        assert events(lines) == ["configuration read again"]
        assert own.in_effect
        assert own.reloader.warnings() == []
        assert own.applied == []


@pytest.mark.parametrize("content", ["", " \n", "a: [", "- 1\n"])
async def test_a_file_cut_to_nothing_or_to_no_yaml_opens_no_door(tmp_path: Path, content: str) -> None:
    async with reloading(tmp_path, auth={"enabled": True, "tokens": ["a"]}) as own:
        put(own.file, content)
        await own.turn()
        assert own.applied == []
        assert own.effective.auth.enabled
        assert own.count()["invalid"] == 1
        own.file.unlink()
        await own.turn()
        assert own.count()["invalid"] == 2
        assert "cannot be read: No such file" in own.reloader.warnings()[0]
        await own.write(auth={"enabled": True, "tokens": ["a", "b"]})
        assert own.effective.auth.tokens == ("a", "b")
        assert own.in_effect


async def test_what_needs_a_restart_is_named_once_and_the_rest_is_applied(tmp_path: Path) -> None:
    async with reloading(tmp_path, port=1) as own:
        with capture_logs() as lines:
            await own.write(port=2, dedup={"enabled": False}, ct_log={"batch_size": 7})
            await own.write(port=2, dedup={"enabled": False}, ct_log={"batch_size": 8})
        named = [line for line in lines if line["event"] == "option takes effect with a restart"]
        assert [(line["option"], line["before"], line["after"]) for line in named] == [
            ("port", "1", "2"),
            ("dedup.enabled", "true", "false"),
        ]
        assert [config.ct_log.batch_size for config in own.applied] == [7, 8]
        assert (own.effective.port, own.effective.dedup.enabled) == (1, True)
        assert own.reloader.warnings() == [
            "takes effect with a restart: port: 1 → 2",
            "takes effect with a restart: dedup.enabled: true → false",
        ]
        assert not own.in_effect
        await own.write(port=1, ct_log={"batch_size": 8})
        assert own.reloader.warnings() == []
        assert own.in_effect


async def test_what_the_parts_cannot_be_given_is_refused_like_a_mistake(tmp_path: Path) -> None:
    async with reloading(tmp_path) as own:
        own.refuses = "x"
        await own.write(ct_log={"user_agent": "x", "batch_size": 7})
        assert own.effective == Config()
        assert own.count()["invalid"] == 1
        assert "ct_log.user_agent: is refused" in own.reloader.warnings()[0]


async def test_a_mistake_of_this_program_is_shown_and_the_next_change_is_tried(tmp_path: Path) -> None:
    async with reloading(tmp_path) as own:
        own.fails_with = ValueError("unexpected")
        with capture_logs() as lines:
            await own.write(ct_log={"batch_size": 7})
        assert lines[0]["exc_info"]
        assert own.count() == {"applied": 0, "invalid": 0, "failed": 1}
        assert "ValueError: unexpected" in own.reloader.warnings()[0]
        own.fails_with = None
        await own.write(ct_log={"batch_size": 8})
        assert own.effective.ct_log.batch_size == 8
        assert own.in_effect


async def test_a_file_of_tokens_that_is_missing_or_broken_is_taken_up_when_it_is_mended(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    async with reloading(tmp_path) as own:
        await own.write(auth={"enabled": True, "tokens_file": str(tokens)})
        assert "auth.tokens_file" in own.reloader.warnings()[0]
        assert not own.effective.auth.enabled
        put(tokens, "one\n")
        await own.turn()
        assert own.reloader.warnings() == []
        assert own.effective.auth.enabled
        put(tokens, "not one token\n")
        await own.turn()
        assert "line 1" in own.reloader.warnings()[0]
        assert own.effective.auth.enabled
        put(tokens, "two\n")
        await own.turn()
        assert own.in_effect


async def test_names_without_meaning_and_notes_are_told_as_at_the_start(tmp_path: Path) -> None:
    logs = [{"name": "a", "url": "https://a/"}, {"name": "a", "url": "https://b/"}]
    async with reloading(tmp_path) as own:
        with capture_logs() as lines:
            await own.write(buffer_size=7, custom_logs=logs)
            await own.write(buffer_size=7, custom_logs=logs, ct_log={"batch_size": 7})
        assert own.in_effect
    told = [line for line in lines if line["log_level"] == "warning"]
    assert [line.get("options") or line["note"].partition(":")[0] for line in told] == [
        "buffer_size",
        "more than one log is called 'a'",
    ]


async def test_without_a_file_there_is_nothing_to_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_config(None, {"CERTSTREAM_HOT_RELOAD_ENABLED": "true"})
    assert loaded.path is None

    async def apply(_config: Config) -> bool:
        return False

    reloader = Reloader(loaded, Metrics(), prepare=lambda config: config, apply=apply, environ={})
    with capture_logs() as lines:
        await reloader.run()
    assert [line["log_level"] for line in lines] == ["warning"]
    assert reloader.warnings() == []


async def test_another_path_says_when_the_file_is_read(tmp_path: Path) -> None:
    trigger = tmp_path / "deployed"
    trigger.touch()
    on = {"hot_reload": {"watch_path": str(trigger)}}
    async with reloading(tmp_path, **on) as own:
        put(own.file, yaml.safe_dump({**on, "ct_log": {"batch_size": 7}}))
        put(trigger, "now")
        await own.turn()
        assert own.effective.ct_log.batch_size == 7


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("certstream")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers, root.level, ours.level = before
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logging_as_before")
async def test_a_changed_level_holds_at_once_and_its_change_is_seen_by_either_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging("error", "json")
    async with reloading(tmp_path, log_level="error", log_format="json") as own:
        assert capsys.readouterr().err == ""
        for before, after in (("error", "info"), ("info", "error")):
            await own.write(log_level=after, log_format="json")
            assert f'"before": "\\"{before}\\"", "after": "\\"{after}\\""' in capsys.readouterr().err
        await own.write(log_level="error", log_format="json", ct_log={"batch_size": 7})
        assert capsys.readouterr().err == ""
        await own.write(log_level="info", log_format="console")
        assert "option=log_format" in capsys.readouterr().err
