from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import aiohttp
import pybase64
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from certstream.ct.merkle import leaf_hash, verify_consistency, verify_inclusion
from certstream.ct.rfc6962 import parse_get_entries, parse_sth
from certstream.ct.signatures import verify_tree_head
from certstream.ct.static_ct import issuer_path, parse_checkpoint, parse_data_tile, parse_note_signatures, tile_path
from certstream.ct.types import EntryBatch, LogKind
from certstream.simulator import RawEntry, SimulatedLog, SimulatorServer, entries_of_tile
from certstream.simulator.rfc6962_api import roots
from tests.simulator.simulator_support import Served

TILES = Path(__file__).parents[1] / "data" / "tiles"


def hashes(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


def assert_true(log: SimulatedLog, batch: EntryBatch) -> None:
    """A batch holds what the log says its entries are."""
    for at in range(len(batch)):
        entry = log.entry(batch.start + at)
        assert batch.entry_type[at] == entry.entry_type
        assert batch.timestamp_ms[at] == entry.timestamp_ms
        assert batch.data[batch.cert.start[at] : batch.cert.stop[at]] == entry.der
        leaf = batch.data[batch.leaf.start[at] : batch.leaf.stop[at]]
        assert hashlib.sha256(batch.leaf_prefix + leaf).digest() == log.tree.leaf(batch.start + at)


async def test_get_sth_is_the_signed_head(served: Served) -> None:
    log = SimulatedLog("log", initial=300)
    await served.start(log)
    head = parse_sth((await served.classic(log, "get-sth")).body)
    verify_tree_head(head, log.spki)
    assert (head.tree_size, head.root_hash) == (300, log.tree.root())


@pytest.mark.parametrize("kinds", [{"rfc6962"}, {"rfc6962", "static"}], ids=["classic", "both"])
async def test_get_entries_gives_every_entry_as_it_is(served: Served, kinds: set[LogKind]) -> None:
    log = SimulatedLog("log", kinds=kinds, initial=600, unparseable=0.1)
    await served.start(log)
    answer = await served.classic(log, "get-entries", start=3, end=599)
    batch = parse_get_entries(log.info("rfc6962"), 3, answer.body)
    assert len(batch) == 597
    assert_true(log, batch)


async def test_pages_end_at_the_tree_the_page_size_and_the_boundary(served: Served) -> None:
    log = SimulatedLog("log", initial=100, max_page=40, page_boundary=32)
    await served.start(log)

    async def count(start: int, end: int) -> int:
        return len((await served.classic(log, "get-entries", start=start, end=end)).json["entries"])

    assert await count(0, 99) == 32
    assert await count(30, 99) == 2
    assert await count(96, 500) == 4
    log.page_boundary = 0
    assert await count(0, 99) == 40
    assert await count(5, 5) == 1


@pytest.mark.parametrize(
    ("path", "query", "text"),
    [
        ("get-entries", {"start": 10, "end": 12}, "need tree size"),
        ("get-entries", {"start": 5, "end": 4}, "after end"),
        ("get-entries", {"start": "4_2", "end": 50}, "decimal"),
        ("get-entries", {"start": 1}, "decimal"),
        ("get-sth-consistency", {"first": 0, "second": 3}, "not within"),
        ("get-sth-consistency", {"first": 4, "second": 3}, "not within"),
        ("get-sth-consistency", {"first": 4, "second": 11}, "beyond"),
        ("get-proof-by-hash", {"hash": "!", "tree_size": 3}, "base64"),
        ("get-entry-and-proof", {"leaf_index": 3, "tree_size": 3}, "not within"),
    ],
)
async def test_what_no_tree_holds_is_a_400(served: Served, path: str, query: dict[str, int | str], text: str) -> None:
    log = SimulatedLog("log", initial=10)
    log.grow(5, publish=False)
    await served.start(log)
    answer = await served.classic(log, path, **query)
    assert answer.status == 400
    assert text in answer.body.decode()


async def test_consistency_proofs_lead_from_head_to_head(served: Served) -> None:
    log = SimulatedLog("log", initial=77)
    await served.start(log)
    log.grow(200)
    answer = await served.classic(log, "get-sth-consistency", first=77, second=277)
    verify_consistency(77, 277, log.tree.root(77), log.tree.root(277), hashes(answer.json["consistency"]))


async def test_a_leaf_hash_is_found_with_its_proof(served: Served) -> None:
    log = SimulatedLog("log", initial=100)
    await served.start(log)
    wanted = leaf_hash(log.entry(42).leaf_input)
    query = {"hash": base64.b64encode(wanted).decode()}
    answer = await served.classic(log, "get-proof-by-hash", tree_size=90, **query)
    assert answer.json["leaf_index"] == 42
    verify_inclusion(wanted, 42, 90, hashes(answer.json["audit_path"]), log.tree.root(90))
    assert (await served.classic(log, "get-proof-by-hash", tree_size=42, **query)).status == 404


async def test_an_entry_comes_with_its_proof(served: Served) -> None:
    log = SimulatedLog("log", initial=100)
    await served.start(log)
    answer = (await served.classic(log, "get-entry-and-proof", leaf_index=99, tree_size=100)).json
    leaf_input, extra_data = hashes([answer["leaf_input"], answer["extra_data"]])
    assert (leaf_input, extra_data) == (log.entry(99).leaf_input, log.entry(99).extra_data)
    verify_inclusion(leaf_hash(leaf_input), 99, 100, hashes(answer["audit_path"]), log.tree.root())


async def test_get_roots_gives_the_ends_of_all_chains(served: Served) -> None:
    log = SimulatedLog("log")
    await served.start(log)
    loaded = hashes((await served.classic(log, "get-roots")).json["certificates"])
    assert loaded == roots()
    names = {x509.load_der_x509_certificate(der).subject for der in loaded}
    assert len(names) == len(loaded) == 3


async def test_the_checkpoint_is_signed_and_has_signatures_to_ignore(served: Served) -> None:
    log = SimulatedLog("log", initial=300)
    await served.start(log)
    body = (await served.static(log, "checkpoint")).body
    head = parse_checkpoint(body, log.origin, log.log_id)
    verify_tree_head(head, log.spki)
    assert (head.tree_size, head.root_hash) == (300, log.tree.root())
    names = [each.name for each in parse_note_signatures(body.partition(b"\n\n")[2])]
    assert names == [log.origin, log.origin, "witness.example/w1"]


@pytest.mark.parametrize("kinds", [{"static"}, {"rfc6962", "static"}], ids=["static", "both"])
async def test_data_tiles_full_and_partial_give_every_entry(served: Served, kinds: set[LogKind]) -> None:
    log = SimulatedLog("log", kinds=kinds, initial=300, unparseable=0.1)
    await served.start(log)
    for path, start, count in (
        ("tile/data/000", 0, 256),
        ("tile/data/001.p/44", 256, 44),
        ("tile/data/001.p/7", 256, 7),
    ):
        tile = parse_data_tile(log.info("static"), start, (await served.static(log, path)).body, log.issuers)
        assert (len(tile.batch), tile.error) == (count, None)
        assert_true(log, tile.batch)


async def test_hash_tiles_full_and_partial_lead_to_the_root(served: Served) -> None:
    log = SimulatedLog("log", initial=70_000, shapes=["wildcard"])
    await served.start(log)
    for level, index, width in ((0, 0, 256), (0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)):
        answer = await served.static(log, tile_path(level, index, width))
        assert answer.body == log.tree.tile(level, index, width)
    assert (await served.static(log, "tile/2/000.p/1")).body == log.tree.root(65_536)


@pytest.mark.parametrize(
    "path",
    [
        "tile/data/001",
        "tile/data/001.p/45",
        "tile/data/002.p/1",
        "tile/1/000.p/2",
        "tile/3/000.p/1",
        "tile/data/001.p/256",
        "tile/data/001.p/999",
        "tile/data/001.p/07",
        "tile/data/x000/001.p/7",
        "tile/data/1.p/7",
        "tile/names/000",
        "issuer/" + 64 * "0",
        "issuer/short",
        "ct/v1/get-sth",
        "",
    ],
)
async def test_what_does_not_exist_is_a_404(served: Served, path: str) -> None:
    log = SimulatedLog("log", initial=300)
    await served.start(log)
    assert (await served.static(log, path)).status == 404


async def test_long_tile_numbers_are_written_in_groups_of_three(served: Served) -> None:
    log = SimulatedLog("log", initial=256_300, shapes=["wildcard"])
    await served.start(log)
    answer = await served.static(log, "tile/data/x001/001.p/44")
    assert parse_data_tile(log.info("static"), 256_256, answer.body).error is None
    assert (await served.static(log, "tile/0/x001/000")).body == log.tree.tile(0, 1000)


async def test_a_partial_tile_goes_when_the_full_one_comes_unless_it_is_kept(served: Served) -> None:
    log = SimulatedLog("log", initial=200)
    await served.start(log)
    assert (await served.static(log, "tile/data/000.p/200")).status == 200
    log.grow(56)
    for path in ("tile/data/000.p/200", "tile/0/000.p/200"):
        assert (await served.static(log, path)).status == 404
    log.keep_partials = True
    assert (await served.static(log, "tile/0/000.p/200")).body == log.tree.tile(0, 0, 200)


async def test_tiles_may_be_kept_and_checkpoints_not(served: Served) -> None:
    log = SimulatedLog("log", initial=256)
    await served.start(log)
    assert "immutable" in (await served.static(log, "tile/data/000")).headers["Cache-Control"]
    assert (await served.static(log, "checkpoint")).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("setting", "accept", "packed"),
    [
        ("accepted", "gzip, br", True),
        ("accepted", "identity", False),
        ("always", "identity", True),
        ("never", "gzip", False),
    ],
)
async def test_data_tiles_are_gzipped_as_the_log_is_set(
    served: Served, setting: str, accept: str, packed: bool
) -> None:
    log = SimulatedLog("log", initial=300, gzip=setting)
    await served.start(log)
    for path in ("tile/data/000", "tile/data/001.p/44"):
        answer = await served.static(log, path, headers={"Accept-Encoding": accept})
        assert (answer.headers.get("Content-Encoding") == "gzip") == packed
        start = 256 * int(path[10:13])
        width = 256 if start == 0 else 44
        assert answer.body == b"".join(log.entry(start + at).tile_leaf for at in range(width))


async def test_issuers_are_served_by_their_fingerprint(served: Served) -> None:
    log = SimulatedLog("log", initial=100)
    await served.start(log)
    for der in {each for index in range(100) for each in log.entry(index).chain}:
        answer = await served.static(log, issuer_path(hashlib.sha256(der).digest()))
        assert (answer.status, answer.body) == (200, der)


async def test_a_real_tile_is_served_byte_for_byte(served: Served) -> None:
    tile = (TILES / "data-000").read_bytes()
    log = SimulatedLog("navigli", kinds={"static"}, entries=entries_of_tile(tile))
    await served.start(log)
    assert (await served.static(log, "tile/data/000")).body == tile
    assert (await served.static(log, "tile/0/000")).body == (TILES / "hash-0-000").read_bytes()


async def test_given_and_generated_entries_share_a_page_and_a_tile(served: Served) -> None:
    given = [
        RawEntry(SimulatedLog("x").entry(index).leaf_input, SimulatedLog("x").entry(index).extra_data)
        for index in (7, 9)
    ]
    log = SimulatedLog("log", entries=given, initial=10)
    await served.start(log)
    page = parse_get_entries(log.info("rfc6962"), 0, (await served.classic(log, "get-entries", start=0, end=9)).body)
    tile = parse_data_tile(log.info("static"), 0, (await served.static(log, "tile/data/000.p/10")).body, log.issuers)
    assert (len(page), len(tile.batch)) == (10, 10)
    assert_true(log, page)
    assert_true(log, tile.batch)


async def test_an_entry_of_unknown_type_is_served_and_breaks_its_tile_there(served: Served) -> None:
    made = SimulatedLog("x")
    raw = [RawEntry(made.entry(index).leaf_input, made.entry(index).extra_data) for index in range(3)]
    raw[1] = RawEntry(raw[1].leaf_input[:10] + b"\x12\x34" + raw[1].leaf_input[12:], raw[1].extra_data)
    log = SimulatedLog("log", entries=raw)
    await served.start(log)
    page = (await served.classic(log, "get-entries", start=0, end=2)).json["entries"]
    assert [pybase64.b64decode(each["leaf_input"]) for each in page] == [each.leaf_input for each in raw]
    tile = parse_data_tile(log.info("static"), 0, (await served.static(log, "tile/data/000.p/3")).body)
    assert len(tile.batch) == 1
    assert tile.error is not None


async def test_the_log_list_names_every_log_and_is_signed(served: Served) -> None:
    logs = [SimulatedLog("one", kinds={"rfc6962"}), SimulatedLog("two", kinds={"static"}), SimulatedLog("three")]
    server = await served.start(*logs)
    body = (await served.url(f"{server.base_url}/log_list.json")).body
    signature = (await served.url(f"{server.base_url}/log_list.sig")).body
    key = load_pem_public_key((await served.url(f"{server.base_url}/log_list_pubkey.pem")).body)
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(signature, body, padding.PKCS1v15(), SHA256())
    (operator,) = json.loads(body)["operators"]
    assert [each["url"] for each in operator["logs"]] == [logs[0].url("rfc6962"), logs[2].url("rfc6962")]
    assert [each["monitoring_url"] for each in operator["tiled_logs"]] == [logs[1].url("static"), logs[2].url("static")]
    for each in operator["logs"] + operator["tiled_logs"]:
        assert hashlib.sha256(base64.b64decode(each["key"])).digest() == base64.b64decode(each["log_id"])


async def test_requests_are_counted_by_path_and_endpoint_and_wake_who_waits(served: Served) -> None:
    log = SimulatedLog("log", initial=300)
    await served.start(log)
    for _ in range(2):
        await served.static(log, "tile/data/001.p/44")
    await served.classic(log, "get-entries", start=0, end=5)
    await served.static(log, "tile/data/003")
    await log.until(lambda: log.endpoints["data-tile"] == 3)
    assert log.requests["tile/data/001.p/44"] == 2
    assert log.requests["ct/v1/get-entries?start=0&end=5"] == 1
    assert log.endpoints == {"data-tile": 3, "get-entries": 1}


async def test_a_log_answers_only_the_protocols_it_speaks(served: Served) -> None:
    log = SimulatedLog("log", kinds={"static"})
    server = await served.start(log)
    for path in ("/log/rfc6962/ct/v1/get-sth", "/other/static/checkpoint", "/log", "/"):
        assert (await served.url(server.base_url + path)).status == 404
    with pytest.raises(ValueError, match="does not serve"):
        log.info("rfc6962")
    assert [info.kind for info in server.infos()] == ["static"]


async def test_only_get_is_answered(served: Served) -> None:
    log = SimulatedLog("log")
    await served.start(log)
    async with served.session.post(log.url("static") + "checkpoint", data=b"x") as response:
        assert response.status == 405


async def test_a_log_with_a_rate_grows_while_it_is_served(served: Served) -> None:
    log = SimulatedLog("log", initial=10, rate=500, publish_interval_s=0.02)
    await served.start(log)
    await log.until(lambda: log.tree_size >= 40)
    batch = parse_get_entries(log.info("rfc6962"), 0, (await served.classic(log, "get-entries", start=0, end=39)).body)
    assert_true(log, batch)


async def test_logs_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        SimulatorServer([SimulatedLog("log"), SimulatedLog("log")])


async def test_a_port_in_use_is_told_and_a_closed_one_is_free_again() -> None:
    log = SimulatedLog("log", initial=2)
    async with SimulatorServer([log]) as first:
        with pytest.raises(OSError, match="in use"):
            await SimulatorServer([SimulatedLog("other")], port=first.port).__aenter__()
    async with SimulatorServer([log], port=first.port) as again, aiohttp.ClientSession() as session:
        assert again.url(log, "static") == first.url(log, "static")
        async with session.get(log.url("static") + "checkpoint") as response:
            assert response.status == 200
