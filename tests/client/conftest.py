"""A publisher of a log list, and a client with time that tests decide."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from certstream.client.http import HttpClient
from tests.client.log_list_support import Publisher, client, publishing
from tests.client.reading_support import FakeTime
from tests.ct.log_list_support import classic


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def http(time: FakeTime) -> AsyncIterator[HttpClient]:
    async with client(time) as http:
        yield http


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    async with publishing() as publisher:
        publisher.publish(classic(1))
        yield publisher
