"""Requests for consecutive ranges of one log, in flight together, taken in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from certstream.client.http import Prefetch

T = TypeVar("T")


@dataclass(slots=True)
class Flight(Generic[T]):
    """One request for [start, stop)."""

    start: int
    stop: int
    task: asyncio.Task[T]
    permit: bool  # holds a permit of Prefetch


class Flights(Generic[T]):
    """The first request needs no permit, each one behind it does, as many as `prefetch` still has.

    Owns the tasks: `close` when done.
    """

    def __init__(self, name: str, fetch: Callable[[int, int], Coroutine[Any, Any, T]], prefetch: Prefetch) -> None:
        self._name = name
        self._fetch = fetch
        self._prefetch = prefetch
        self._flights: deque[Flight[T]] = deque()

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def ready(self) -> bool:
        """Whether the next answer is there, and is no failure."""
        if not self._flights:
            return False
        task = self._flights[0].task
        return task.done() and not task.cancelled() and task.exception() is None

    def add(self, start: int, stop: int) -> bool:
        """Request [start, stop) after all others; False if there was no permit left to do so."""
        permit = bool(self._flights)
        if permit and not self._prefetch.take():
            return False
        self._flights.append(self._launch(start, stop, permit))
        return True

    def add_first(self, start: int, stop: int) -> None:
        """Request [start, stop) before all others: the rest of an answer that was short."""
        self._flights.appendleft(self._launch(start, stop, permit=False))

    async def take(self) -> tuple[Flight[T], T]:
        """Wait for the first request and give its answer, or raise what it raised."""
        flight = self._flights[0]
        answer = await flight.task
        self._flights.popleft()
        if self._flights:
            self._give_back(self._flights[0])
        return flight, answer

    async def close(self) -> None:
        """Cancel what is in flight, wait for its end, drop what was not taken."""
        flights, self._flights = list(self._flights), deque()
        for flight in flights:
            flight.task.cancel()
            self._give_back(flight)
        await asyncio.gather(*(flight.task for flight in flights), return_exceptions=True)

    def _launch(self, start: int, stop: int, permit: bool) -> Flight[T]:
        task = asyncio.create_task(self._fetch(start, stop), name=f"fetch:{self._name}:{start}")
        return Flight(start, stop, task, permit)

    def _give_back(self, flight: Flight[T]) -> None:
        if flight.permit:
            flight.permit = False
            self._prefetch.give_back()
