"""The service: following the logs and serving what they publish."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from certstream import __version__
from certstream.app.delivery import DeliveryWatch
from certstream.app.following import Following
from certstream.app.lists.listed_logs import ListedLogs
from certstream.app.lists.log_keys import refuse_without_keys
from certstream.app.lists.sources import lacks_lists, list_figures, list_health
from certstream.app.notify import ServiceManager, status_line
from certstream.app.orphans import reap_orphans
from certstream.app.owners import refuse_as_root
from certstream.app.reload.reloader import Reloader
from certstream.app.settings import (
    FollowedLog,
    LiveSettings,
    LogRecipe,
    live_settings,
    log_health,
    serve_options,
    stream_kinds,
)
from certstream.app.tailers import Tailers
from certstream.app.verification.altered import AlteredPrecertificates
from certstream.app.verification.proven import proven_rows
from certstream.app.verification.rechecking import Rechecking
from certstream.app.verification.trust import Trustees, evidence_directory
from certstream.client.http import HttpClient
from certstream.config import Config, LoadedConfig
from certstream.config.logs import Verification
from certstream.ct.types import LogInfo
from certstream.live.dedup import Deduplicator
from certstream.live.publisher import Publisher
from certstream.live.share import ShareSettings
from certstream.live.supervisor import Supervisor
from certstream.live.tailer import Tailer
from certstream.metrics import Metrics, watch_loop_lag
from certstream.serve.health import DeepHealth, assess
from certstream.serve.server import StreamServer
from certstream.state import StateStore
from certstream.stream.hub import Hub

if TYPE_CHECKING:
    from certstream.app.archive import ArchiveParts

_FINISH_S: Final = 0.5  # that batches in hand get when the service stops; closing the streams takes about 0.5 s more
_LEAVE_S: Final = 4.5  # that the service has for its end

Wanted: TypeAlias = tuple[Config, Sequence[FollowedLog]]  # the configuration as it is meant, and the logs to follow

log = structlog.get_logger(__name__)


class Service:
    """All parts of one running service.

    Starts from the state file outwards to the ports, stops in the opposite direction: logs, streams, state.
    """

    def __init__(
        self,
        config: Config,
        logs: Sequence[FollowedLog],
        warnings: Sequence[str] = (),
        *,
        share: ShareSettings | None = None,
        leave: Callable[[float], object] = lambda _after_s: None,
    ) -> None:
        """`leave` ends the process after so many seconds, whatever holds it up: for the process's owner to give."""
        self._config = config
        self._leave = leave
        self._share = share or ShareSettings()
        self._asked = live_settings(config, logs, os.environ)  # as it is configured
        self._live = self._asked  # as it is in effect, with the logs of the lists
        self._changing = asyncio.Lock()
        self._is_applied = True  # False where a change of them failed midway
        self._warnings = warnings
        self._started = time.monotonic()
        kinds = stream_kinds(config.streams)
        self._options = serve_options(config, kinds)
        self._metrics = Metrics(__version__)
        for kind in kinds:  # shown before the first client
            self._metrics.stream(kind)
        self._hub = Hub(
            self._metrics,
            client_backlog_bytes=config.streams.client_backlog_bytes,
            total_backlog_bytes=config.streams.total_backlog_bytes,
        )
        state_file = config.ct_log.state_file
        self._state = StateStore(
            None if state_file is None else Path(state_file), recovery=config.ct_log.state_recovery
        )
        self._metrics.watch_state(lambda: self._state.save_error is None)
        self._proven = proven_rows(config)
        self._http = HttpClient(self._live.fetch, self._metrics)
        self._following = Following(self._tailer, self._metrics)
        self._lists = ListedLogs(self._http, self._state, self._following.states)
        self._metrics.trust.watch_lists(lambda: list_figures(self._lists.statuses()))
        self._trust = Trustees(self._http, self._state, self._metrics.trust, evidence_directory(config), self._proven)
        self._altered = AlteredPrecertificates(
            self._metrics.trust,
            compares=self._trust.compares,
            mark=self._proven.altered,
            evidence=self._trust.found,
        )
        self._archive = self._archive_parts() if config.delta_sink.enabled else None
        dedup = config.dedup
        self._publisher = Publisher(
            self._hub,
            self._metrics,
            kinds=kinds,
            dedup=Deduplicator(dedup.capacity, dedup.ttl_secs, time.monotonic) if dedup.enabled else None,
            archive=None if self._archive is None else self._archive.sink,
            marks=self._altered,
        )
        self._tailers = Tailers(
            self._http,
            self._state,
            self._publisher,
            self._metrics,
            trust=self._trust,
            lists=self._lists,
            archive=self._archive,
            share=self._share,
        )
        self._recheck = Rechecking(
            config,
            self._metrics,
            self._proven,
            self._trust,
            archived=None if self._archive is None else self._archive.shown,
            hold=self._following.live_first,
        )
        self._delivery = DeliveryWatch(
            self._following,
            self._metrics.delivery,
            lambda: self._live.min_share,
            lacks_lists=lambda: lacks_lists(self._lists.statuses()),
            settings=self._share,
        )
        self._serving: StreamServer | None = None
        self._reloader: Reloader[LiveSettings] | None = None
        self._manager = ServiceManager.of(os.environ, lambda: status_line(self.health(), self._hub.clients()))

    def _archive_parts(self) -> ArchiveParts:
        from certstream.app.archive import ArchiveParts  # and its libraries, which streaming alone does not need
        from certstream.app.verification.verifying import Verifying

        return ArchiveParts(
            self._config,
            self._live.infos,
            self._state,
            self._metrics,
            self._proven,
            Verifying(self._verification, self._trust.found, self._altered, self._trust.anchor),
            live_first=self._following.live_first,
            settled=self._lists.settled,
        )

    def _verification(self, info: LogInfo) -> Verification:
        """How far that log is verified now."""
        followed = (recipe.followed for recipe in self._live.recipes)
        return next((each.verification for each in followed if each.info.base_url == info.base_url), "off")

    async def run(self, stop: asyncio.Event) -> None:
        """Serve and follow the logs until `stop`.

        Raises ConfigError, StateError or StorageError where a part cannot start.
        """
        heed = asyncio.create_task(self._leave_after(stop), name="leave in time")
        async with AsyncExitStack() as parts:
            parts.callback(heed.cancel)
            parts.callback(self._publisher.close)
            await parts.enter_async_context(self._manager)
            await asyncio.to_thread(refuse_as_root, self._files(), work="", unit="certstream")
            await parts.enter_async_context(self._state)
            await parts.enter_async_context(self._http)
            await self._take_lists(stop)
            if self._archive is not None:
                self._archive.expect(self._live.infos)
                self._archive.heed(stop)
                await parts.enter_async_context(self._archive)
            await parts.enter_async_context(self._recheck)
            await parts.enter_async_context(self._trust)
            self._trust.watch(self._live.followed)
            self._following.begin(self._live.recipes)
            server = self._serving = await parts.enter_async_context(self._server())
            self._announce(server)
            self._manager.ready()
            await self._follow(self._following.supervisor, stop)
        log.info("stopped")

    async def _take_lists(self, stop: asyncio.Event) -> None:
        """Take the log lists that are kept; none is waited for, but where a log may not be read without its key.

        Raises ConfigError where no list knows that.
        """
        config, logs = self._asked.config, self._asked.followed
        await self._lists.configure(config, logs)
        if self._lists.without_key(logs):
            await self._lists.fetch(stop)
        if not stop.is_set():
            refuse_without_keys(self._lists.without_key(logs), config)
        self._live = self._asked.of(self._lists.wanted(config, logs))
        self._lists.settle(self._live.followed)

    def _files(self) -> list[Path]:
        """What this service writes."""
        state_file = self._config.ct_log.state_file
        state = [] if state_file is None else [Path(state_file)]
        return state if self._archive is None else [*state, *self._archive.tables]

    async def _leave_after(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._manager.stopping()
        self._leave(_LEAVE_S)

    async def _follow(self, supervisor: Supervisor, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self._state.run(), name="state"),
                group.create_task(watch_loop_lag(self._metrics), name="loop lag"),
                group.create_task(self._proven.run(), name="proven"),
                group.create_task(self._recheck.run(), name="recheck"),
                group.create_task(self._delivery.run(), name="delivery"),
            ]
            if os.getpid() == 1:  # of a container
                background.append(group.create_task(reap_orphans(), name="orphans"))
            archiving = None if self._archive is None else group.create_task(self._archive.run(), name="archive")
            group.create_task(supervisor.run(), name="logs")
            changing = [group.create_task(self._lists.run(self._take_other_logs), name="log lists")]
            if self._reloader is not None:
                changing.append(group.create_task(self._reloader.run(), name="reload"))
            await stop.wait()
            log.info("stopping", clients=self._hub.clients())
            self._proven.hurry()
            for task in changing:
                task.cancel()
            await asyncio.wait(changing)
            if self._archive is not None:
                self._archive.jobs.stop()
            await supervisor.stop(_FINISH_S)
            await self._trust.finish(_FINISH_S)
            if self._archive is not None and archiving is not None:
                archiving.cancel()
                await asyncio.wait([archiving])
                await self._archive.finish()
            await asyncio.to_thread(self._proven.write)
            for task in background:  # the state is saved until then
                task.cancel()

    def reload_from(self, loaded: LoadedConfig, wanted: Callable[[Config], Wanted]) -> None:
        """Where that is on, take up changes of the file that was loaded; `wanted` is what its configuration asks for.

        Say so before `run`.
        """

        def prepare(config: Config) -> LiveSettings:
            live = live_settings(*wanted(config), os.environ)
            if self._archive is not None:
                self._archive.check(live.config, live.infos)
            return live

        if loaded.config.hot_reload.enabled:
            self._reloader = Reloader(loaded, self._metrics, prepare=prepare, apply=self._apply)

    async def _apply(self, asked: LiveSettings) -> bool:
        """Work by other settings from now on; whether they are other ones. Dropping no client, and no entry."""
        async with self._changing:
            self._asked = asked
            await self._lists.configure(asked.config, asked.followed)
            for each in self._lists.without_key(asked.followed):
                log.error("log is not followed: it says enforce, and its key is not known", log=each.info.name)
            return await self._take_logs()

    async def _take_other_logs(self) -> None:
        """Follow other logs from now on, where the lists say so."""
        async with self._changing:
            await self._take_logs()

    async def _take_logs(self) -> bool:
        return await self._take(self._asked.of(self._lists.wanted(self._asked.config, self._asked.followed)))

    async def _take(self, live: LiveSettings) -> bool:
        if live == self._live and self._is_applied:
            return False
        self._is_applied = False
        if self._serving is not None:
            self._serving.apply(live.access)
        self._http.apply(live.fetch)
        self._recheck.apply(live.config)
        await self._following.change(live.recipes, between=partial(self._change_archive, live))
        self._trust.watch([recipe.followed for recipe in live.recipes])
        self._live, self._is_applied = live, True
        return True

    def _change_archive(self, live: LiveSettings) -> None:
        self._lists.settle(live.followed)
        if self._archive is not None:
            self._archive.apply(live.config, live.infos)

    def hang_up(self) -> None:
        """SIGHUP: start a backfill."""
        if self._archive is None:
            log.info("the archive is off, this signal starts nothing", signal="SIGHUP")
        else:
            self._archive.jobs.ask()

    def _tailer(self, recipe: LogRecipe) -> Tailer:
        return self._tailers.make(recipe)

    def _server(self) -> StreamServer:
        config = self._config
        return StreamServer(
            self._hub,
            self.health,
            self._metrics,
            config.host,
            config.port,
            options=self._options,
            access=self._live.access,
            readiness=self._delivery.readiness,
            coverage=None if self._archive is None else self._archive.coverage.json,
        )

    def health(self) -> DeepHealth:
        """How the service and each of its logs are doing."""
        warnings = [*self._warnings]
        if self._state.save_error is not None:
            warnings.append(f"state cannot be saved: {self._state.save_error}")
        if self._reloader is not None:
            warnings += self._reloader.warnings()
        warnings += self._trust.warnings()
        deep = assess(
            [self._trust.shown(log_health(status), status.log) for status in self._following.statuses()],
            version=__version__,
            uptime_s=time.monotonic() - self._started,
            warnings=warnings,
            archive=None if self._archive is None else self._archive.health(),
            jobs=None if self._archive is None else self._archive.job_health(),
            share=self._delivery.share,
            lists=list_health(self._lists.statuses()),
        )
        return replace(deep, tainted=self._recheck.tainted())

    def _announce(self, server: StreamServer) -> None:
        config = self._config
        tls = config.tls_cert is not None
        further: dict[str, str] = {}
        if server.monitoring_port is not None:
            further["monitoring"] = _url(config.monitoring.host, server.monitoring_port, tls=config.monitoring.tls)
        log.info(
            "serving",
            url=_url(config.host, server.port, tls=tls),  # a browser sees there what is served
            host=config.host,
            port=server.port,
            logs=len(self._live.recipes),
            version=__version__,
            **further,
        )


def _url(host: str, port: int, *, tls: bool) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if tls else 'http'}://{shown}:{port}/"
