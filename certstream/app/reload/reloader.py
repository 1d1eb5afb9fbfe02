"""A changed configuration file takes effect while the service runs, as far as it can, and says where it cannot."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from certstream.app.reload.live import is_taken_over
from certstream.app.reload.watch import INTERVAL_S, Watcher
from certstream.config import Config, LoadedConfig, load_config
from certstream.config.changes import Change, changes, with_options_of
from certstream.config.environment import OPTIONS
from certstream.config.tokens import tokens_path
from certstream.errors import ConfigError
from certstream.logging_setup import setup_logging
from certstream.metrics import Metrics

_MOST_SHOWN: Final = 10  # of what needs a restart, as warnings of /health/deep

Prepared = TypeVar("Prepared")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded(Generic[Prepared]):
    """What the file says, and what follows from it for the running service."""

    loaded: LoadedConfig
    effective: Config  # what is in effect, with what may change as the file has it
    prepared: Prepared


class Reloader(Generic[Prepared]):
    """Watches the file that was loaded, and gives each valid change to `apply`; the environment stays above the file.

    A file with mistakes, an empty one or none changes nothing: it is logged like at the start, and the old one stays.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        metrics: Metrics,
        *,
        prepare: Callable[[Config], Prepared],
        apply: Callable[[Prepared], Awaitable[bool]],
        environ: Mapping[str, str] = os.environ,
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`prepare` makes of a configuration what the parts are given; it may read files, and runs in a thread.

        `apply` applies that, and says whether anything of it is new. Both raise ConfigError for what cannot be; then
        nothing was applied.
        """
        self._loaded = loaded
        self._effective = self._tried = loaded.config
        self._metrics = metrics
        self._prepare = prepare
        self._apply = apply
        self._environ = environ
        self._watcher = Watcher(self._watched, self._load, interval_s=interval_s)
        self._mistakes: tuple[str, ...] = ()
        self._crash: str | None = None
        self._waiting: tuple[Change, ...] = ()  # for a restart

    def warnings(self) -> list[str]:
        """What of the file is not in effect, and why."""
        found: list[str] = []
        if self._watcher.hangs:
            found.append(f"the configuration file does not answer: {self._loaded.path}")
        if self._mistakes:
            more = f" and {len(self._mistakes) - 1} more" if len(self._mistakes) > 1 else ""
            found.append(f"the configuration file is not in effect, it has mistakes: {self._mistakes[0]}{more}")
        if self._crash is not None:
            found.append(f"the configuration file is not wholly in effect: {self._crash}")
        found += [f"takes effect with a restart: {change}" for change in self._waiting[:_MOST_SHOWN]]
        if len(self._waiting) > _MOST_SHOWN:
            found.append(f"takes effect with a restart: {len(self._waiting) - _MOST_SHOWN} options more")
        return found

    async def run(self) -> None:
        """Take up changes, until cancelled. Raises nothing."""
        if self._loaded.path is None:
            log.warning("hot_reload.enabled is on, but no configuration file was read: nothing is watched")
            return
        log.info("watching the configuration", file=", ".join(map(str, self._watched())))
        async with self._watcher as watcher:
            while True:
                try:
                    await self._take(await watcher.next())
                except ConfigError as exc:
                    self._refuse(exc.mistakes)
                except Exception as exc:
                    log.exception("configuration could not be applied wholly")
                    self._crash = f"{type(exc).__name__}: {exc}"
                    self._metrics.config_reloaded("failed")
                self._metrics.config_in_effect.set(not (self._mistakes or self._crash or self._waiting))

    # In the watcher's thread

    def _watched(self) -> list[Path]:
        """The file, or what is watched instead of it, and files of tokens: one that was refused may be mended."""
        watch_path = self._effective.hot_reload.watch_path
        paths = [] if self._loaded.path is None else [self._loaded.path if watch_path is None else Path(watch_path)]
        named = {config.auth.tokens_file for config in (self._effective, self._tried)}
        for tokens_file in sorted(name for name in named if name is not None):
            with suppress(ConfigError):  # names a credential, and there are none
                paths.append(tokens_path(tokens_file, self._environ))
        return paths

    def _load(self) -> _Loaded[Prepared]:
        assert self._loaded.path is not None
        loaded = load_config(self._loaded.path, self._environ)
        self._tried = loaded.config
        if loaded.config != self._loaded.config and _is_empty(self._loaded.path):
            raise ConfigError(f"{self._loaded.path}: is empty, all options would have their defaults")
        effective = with_options_of(self._effective, loaded.config, is_taken_over)
        return _Loaded(loaded, effective, self._prepare(effective))

    # In the event loop

    async def _take(self, new: _Loaded[Prepared]) -> None:
        applied = [change for change in changes(self._effective, new.effective) if not OPTIONS[change.path].inert]
        waiting = tuple(changes(new.effective, new.loaded.config))
        is_new = await self._apply(new.prepared)
        was_refused = bool(self._mistakes or self._crash)
        before, self._effective = self._effective, new.effective
        self._mistakes, self._crash = (), None
        with _logging_changed(before, new.effective):
            self._say(applied, waiting, new.loaded)
            if is_new or applied or was_refused or waiting != self._waiting:
                self._metrics.config_reloaded("applied")
                log.info("configuration read again", file=str(new.loaded.path), in_effect=not waiting)
        self._waiting, self._loaded = waiting, new.loaded

    def _say(self, applied: Sequence[Change], waiting: Sequence[Change], loaded: LoadedConfig) -> None:
        """What was not said before."""
        for change in applied:
            log.info("option changed", option=change.path, before=change.before, after=change.after)
        for change in waiting:
            if change not in self._waiting:
                values = {"option": change.path, "before": change.before, "after": change.after}
                log.warning("option takes effect with a restart", **values)
        if new := [path for path in loaded.ignored if path not in self._loaded.ignored]:
            log.warning("options without meaning in this version", options=", ".join(new))
        for note in loaded.warnings:
            if note not in self._loaded.warnings:
                log.warning("configuration", note=note)

    def _refuse(self, mistakes: Sequence[str]) -> None:
        self._mistakes = tuple(mistakes)
        self._metrics.config_reloaded("invalid")
        log.error("configuration file has mistakes, the old one stays in effect", mistakes=len(mistakes))
        for mistake in mistakes:
            log.error("mistake in the configuration", mistake=mistake)


@contextmanager
def _logging_changed(before: Config, after: Config) -> Iterator[None]:
    """Log as configured now; until the context ends what either level shows, so that no change hides itself."""
    if (before.log_level, before.log_format) == (after.log_level, after.log_format):
        yield
        return
    levels = logging.getLevelNamesMapping()
    setup_logging(min(before.log_level, after.log_level, key=lambda name: levels[name.upper()]), after.log_format)
    try:
        yield
    finally:
        setup_logging(after.log_level, after.log_format)


def _is_empty(path: Path) -> bool:
    """Whether it has no content: a disk that is full may cut a file to nothing, and nothing is valid."""
    try:
        return not path.read_bytes().strip()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
