from __future__ import annotations

import asyncio
import base64
import math
from email.utils import parsedate_to_datetime

import aiohttp
import pytest

from certstream.ct.merkle import leaf_hash
from certstream.ct.signatures import verify_tree_head
from certstream.ct.static_ct import parse_data_tile
from certstream.ct.types import LogKind
from certstream.errors import InvalidSignatureError
from certstream.simulator import Fault, FaultKind, SimulatedLog
from certstream.simulator.faults import Faults, Request, parse_fault
from tests.simulator.simulator_support import NOW_S, Served, head_of, leaves, page


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(FaultKind.RATE_LIMITED), 429),
        (Fault(FaultKind.UNAVAILABLE), 503),
        (Fault(FaultKind.SERVER_ERROR), 500),
        (Fault(FaultKind.STATUS, status=403), 403),
    ],
)
async def test_error_statuses_come_from_both_protocols_and_end(
    served: Served, log: SimulatedLog, fault: Fault, status: int
) -> None:
    log.faults.add(fault)
    for answer in (await page(served, log), await served.static(log, "checkpoint")):
        assert (answer.status, answer.body) == (status, b"")
        assert "Retry-After" not in answer.headers
    log.faults.remove(fault)
    assert (await page(served, log)).status == 200
    assert log.faults.struck[fault] == 2


@pytest.mark.parametrize("kind", [FaultKind.RATE_LIMITED, FaultKind.UNAVAILABLE])
async def test_retry_after_comes_in_seconds_or_as_a_date(served: Served, log: SimulatedLog, kind: FaultKind) -> None:
    log.faults.add(Fault(kind, retry_after_s=7, times=1))
    assert (await page(served, log)).headers["Retry-After"] == "7"
    log.faults.add(Fault(kind, retry_after_s=7, retry_after_date=True))
    when = parsedate_to_datetime((await page(served, log)).headers["Retry-After"])
    assert when.timestamp() == math.ceil(NOW_S + 7)


async def test_a_reset_connection_gives_no_answer(served: Served, log: SimulatedLog) -> None:
    fault = log.faults.add(Fault(FaultKind.RESET))  # each time: aiohttp's client tries a GET twice by itself
    with pytest.raises(aiohttp.ClientOSError):
        await page(served, log)
    log.faults.remove(fault)
    assert (await page(served, log)).status == 200


async def test_a_truncated_body_ends_before_its_length(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.TRUNCATED, times=1))
    with pytest.raises(aiohttp.ClientPayloadError):
        await served.static(log, "tile/data/000")
    assert (await served.static(log, "tile/data/000")).status == 200


async def test_a_cut_body_is_whole_to_http_and_half_to_its_reader(served: Served, log: SimulatedLog) -> None:
    whole = await page(served, log)
    log.faults.add(Fault(FaultKind.CUT))
    assert (await page(served, log)).body == whole.body[: len(whole.body) // 2]


async def test_html_comes_with_status_200(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.HTML))
    answer = await page(served, log)
    assert answer.status == 200
    assert answer.body.startswith(b"<!DOCTYPE html>")


async def test_a_stalled_request_goes_on_when_the_fault_is_removed(served: Served, log: SimulatedLog) -> None:
    fault = log.faults.add(Fault(FaultKind.STALL))
    stalled = asyncio.create_task(page(served, log))
    await log.until(lambda: log.endpoints["get-entries"] == 1)
    assert not stalled.done()
    log.faults.remove(fault)
    assert len(leaves(await stalled)) == 32


async def test_a_stall_of_a_time_ends_by_itself(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.STALL, seconds=0.05))
    assert (await page(served, log)).status == 200


async def test_a_stall_does_not_hold_the_server_when_it_closes(served: Served) -> None:
    log = SimulatedLog("stalling", initial=10)
    log.faults.add(Fault(FaultKind.STALL))
    server = await served.start(log)
    stalled = asyncio.create_task(page(served, log))
    await log.until(lambda: log.endpoints["get-entries"] == 1)
    async with asyncio.timeout(5):
        await server.__aexit__(None, None, None)
    with pytest.raises(aiohttp.ClientError):
        await stalled


async def test_short_pages_hold_the_first_entries(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.SHORT_PAGE, entries=5))
    assert leaves(await page(served, log, 3, 31)) == [log.entry(index).leaf_input for index in range(3, 8)]


async def test_no_entries_is_an_empty_page_and_an_empty_tile(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.NO_ENTRIES))
    assert (await page(served, log)).json == {"entries": []}
    assert (await served.static(log, "tile/data/000")).body == b""


@pytest.mark.parametrize("kind", ["rfc6962", "static"])
async def test_the_tree_goes_backwards_under_a_true_signature(served: Served, log: SimulatedLog, kind: LogKind) -> None:
    log.faults.add(Fault(FaultKind.SMALLER_TREE, entries=10))
    head = await head_of(served, log, kind)
    verify_tree_head(head, log.spki)
    assert (head.tree_size, head.root_hash) == (290, log.tree.root(290))


@pytest.mark.parametrize("kind", ["rfc6962", "static"])
async def test_a_wrong_signature_is_in_form_and_does_not_verify(
    served: Served, log: SimulatedLog, kind: LogKind
) -> None:
    log.faults.add(Fault(FaultKind.WRONG_SIGNATURE))
    head = await head_of(served, log, kind)
    assert (head.tree_size, head.root_hash) == (300, log.tree.root())
    with pytest.raises(InvalidSignatureError, match="does not verify"):
        verify_tree_head(head, log.spki)


async def test_a_corrupted_entry_is_another_leaf_in_every_form_and_no_other_entry_is(
    served: Served, log: SimulatedLog
) -> None:
    clean = [log.entry(index).leaf_input for index in range(32)]
    fault = log.corrupt_entry(7)
    served_leaves = leaves(await page(served, log))
    assert [at for at in range(32) if served_leaves[at] != clean[at]] == [7]
    assert leaf_hash(served_leaves[7]) != log.tree.leaf(7)
    proof = (await served.classic(log, "get-entry-and-proof", leaf_index=7, tree_size=300)).json
    assert base64.b64decode(proof["leaf_input"]) == served_leaves[7]
    tile = await served.static(log, "tile/data/000")
    batch = parse_data_tile(log.info("static"), 0, tile.body).batch
    assert batch.data[batch.leaf.start[7] : batch.leaf.stop[7]] == served_leaves[7][2:]
    log.faults.remove(fault)
    assert leaves(await page(served, log)) == clean
    assert (await served.static(log, "tile/data/000")).body != tile.body


async def test_a_wrong_leaf_without_an_index_is_somewhere_in_the_page(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.WRONG_LEAF))
    got = leaves(await page(served, log, 270, 299))
    assert sum(leaf_hash(leaf) != log.tree.leaf(270 + at) for at, leaf in enumerate(got)) == 1


async def test_a_wrong_leaf_past_a_short_page_waits_for_its_page(served: Served, log: SimulatedLog) -> None:
    log.corrupt_entry(20)
    log.faults.add(Fault(FaultKind.SHORT_PAGE, entries=5))
    assert leaves(await page(served, log)) == [log.entry(index).leaf_input for index in range(5)]


async def test_an_unknown_type_breaks_a_partial_tile_at_its_entry(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.UNKNOWN_TYPE, index=290))
    tile = parse_data_tile(log.info("static"), 256, (await served.static(log, "tile/data/001.p/44")).body)
    assert len(tile.batch) == 290 - 256
    assert tile.error is not None


async def test_partial_tiles_are_missing_and_full_ones_not(served: Served, log: SimulatedLog) -> None:
    log.faults.add(Fault(FaultKind.MISSING_PARTIAL))
    for path in ("tile/data/001.p/44", "tile/0/001.p/44", "tile/1/000.p/1"):
        assert (await served.static(log, path)).status == 404
    for path in ("tile/data/000", "tile/0/000"):
        assert (await served.static(log, path)).status == 200


async def test_one_issuer_is_never_found_and_the_others_are(served: Served, log: SimulatedLog) -> None:
    missing, other, *_ = sorted(log.issuers)
    log.faults.add(Fault(FaultKind.MISSING_ISSUER, issuer=missing.hex()))
    assert (await served.static(log, f"issuer/{missing.hex()}")).status == 404
    assert (await served.static(log, f"issuer/{other.hex()}")).status == 200
    log.faults.add(Fault(FaultKind.MISSING_ISSUER))
    assert (await served.static(log, f"issuer/{other.hex()}")).status == 404


def asked(endpoint: str = "get-entries", path: str = "ct/v1/get-entries", covers: range = range(10)) -> Request:
    return Request(endpoint, path, covers)


def strikes(faults: Faults, *requests: Request) -> list[bool]:
    return [bool(faults.striking(request)) for request in requests]


def test_nth_is_one_request_and_times_are_the_first_so_many() -> None:
    faults = Faults(0)
    faults.add(Fault(FaultKind.RESET, nth=2))
    assert strikes(faults, *[asked()] * 4) == [False, True, False, False]
    faults.clear()
    faults.add(Fault(FaultKind.RESET, times=2))
    assert strikes(faults, *[asked()] * 4) == [True, True, False, False]


def test_nth_counts_only_requests_that_the_fault_is_about() -> None:
    faults = Faults(0)
    faults.add(Fault(FaultKind.SHORT_PAGE, nth=2))
    assert strikes(faults, asked(), asked("checkpoint"), asked()) == [False, False, True]


def test_an_index_asks_for_requests_that_cover_it() -> None:
    faults = Faults(0)
    faults.add(Fault(FaultKind.SERVER_ERROR, index=10))
    requests = [asked(covers=range(10)), asked(covers=range(10, 20)), asked("issuer", covers=range(0))]
    assert strikes(faults, *requests) == [False, True, False]


def test_a_fault_is_on_an_endpoint_or_on_a_path() -> None:
    faults = Faults(0)
    fault = faults.add(Fault(FaultKind.RESET, on="data-*"))
    assert strikes(faults, asked(), asked("data-tile", "tile/data/000")) == [False, True]
    faults.remove(fault)
    faults.add(Fault(FaultKind.RESET, on="tile/0/*"))
    assert strikes(faults, asked("data-tile", "tile/data/000"), asked("hash-tile", "tile/0/000")) == [False, True]


def test_chance_is_the_share_asked_for_and_repeats_with_the_seed() -> None:
    def run(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add(Fault(FaultKind.RESET, probability=0.25))
        return strikes(faults, *[asked()] * 1000)

    assert 200 <= sum(run(1)) <= 300
    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize(
    "settings", [{"probability": 1.5}, {"nth": 0}, {"times": 0}, {"entries": 0}, {"status": 200}, {"probability": -1}]
)
def test_faults_that_make_no_sense_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"is 0 to 1|count from 1|400 to 599"):
        Fault(FaultKind.RESET, **settings)  # type: ignore[arg-type]


def test_a_fault_is_written_as_its_kind_and_fields() -> None:
    fault = parse_fault("rate-limited,probability=0.5,on=get-*,index=3,retry_after_s=2.5,retry_after_date=true")
    assert (fault.kind, fault.probability, fault.on) == (FaultKind.RATE_LIMITED, 0.5, "get-*")
    assert (fault.index, fault.retry_after_s, fault.retry_after_date) == (3, 2.5, True)
    assert all(parse_fault(kind).kind == kind for kind in FaultKind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tsunami", "unknown fault 'tsunami'"),
        ("reset,nth", "'nth' is not one of"),
        ("reset,when=now", "'when=now' is not one of"),
        ("reset,nth=two", "nth='two' is not a number"),
        ("reset,probability=often", "is not a number"),
        ("rate-limited,retry_after_date=1", "neither true nor false"),
        ("reset,probability=7", "0 to 1"),
    ],
)
def test_a_fault_written_wrongly_is_refused_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_fault(text)
