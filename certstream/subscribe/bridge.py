"""From asyncio to code that knows nothing of it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

LIMIT_BYTES: Final = 4 << 20
_CLOSE_S: Final = 5.0

T = TypeVar("T")


class Bridge(Generic[T]):
    """Runs an asynchronous generator in a thread of its own, and hands out what it yields, in batches.

    So whoever iterates may block, may run an event loop of their own and be interrupted by signals, and pings are
    answered meanwhile. Bound: once the items that wait, by `size` of each, are `limit_bytes` together, the generator is
    not asked for more until they were taken. As much may be in the batch that was handed out last.

    A context manager; leaving it closes the generator. `close` may come from any thread.
    """

    def __init__(
        self, generate: Callable[[], AsyncGenerator[T, None]], size: Callable[[T], int], limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self._generate = generate
        self._size = size
        self._limit_bytes = limit_bytes
        self._changed = threading.Condition()
        # All of these under _changed
        self._items: deque[T] = deque()
        self._held_bytes = 0
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # while the generator runs
        self._task: asyncio.Task[None] | None = None
        self._room: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="certstream stream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._thread.join(_CLOSE_S)  # a name that is being looked up cannot be interrupted

    def close(self) -> None:
        """End the iteration, and the generator soon after."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def __iter__(self) -> Iterator[list[T]]:
        """Yield what has come, at least one item, until the end; raises what the generator raised."""
        while batch := self._take():
            yield batch

    def _take(self) -> list[T]:
        with self._changed:
            while not (self._items or self._closed or self._ended):
                self._changed.wait()
            if self._items:
                batch = list(self._items)
                self._items.clear()
                self._held_bytes = 0
                if self._loop is not None and self._room is not None:
                    self._loop.call_soon_threadsafe(self._room.set)
                return batch
            if self._error is not None and not self._closed:
                raise self._error
            return []

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._pump())
        except asyncio.CancelledError:
            pass  # closed
        except BaseException as exc:  # noqa: BLE001 - raised in the thread that iterates
            error = exc
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    async def _pump(self) -> None:
        room = asyncio.Event()
        with self._changed:
            if self._closed:
                return
            self._loop, self._task, self._room = asyncio.get_running_loop(), asyncio.current_task(), room
        try:
            async with aclosing(self._generate()) as items:
                async for item in items:
                    if self._closed:  # a generator that never waits cannot be cancelled
                        return
                    if not self._put(item, room):
                        await room.wait()
        finally:
            with self._changed:
                self._loop = None

    def _put(self, item: T, room: asyncio.Event) -> bool:
        """Whether there is room for another."""
        with self._changed:
            if not self._closed:
                self._items.append(item)
                self._held_bytes += self._size(item)
                self._changed.notify_all()
            if self._held_bytes < self._limit_bytes:
                return True
            room.clear()
            return False
