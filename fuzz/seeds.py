"""What the search begins with: real data of `tests/data`, and what the simulator makes."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson
import pybase64

from certstream.ct.merkle import MerkleTree, leaf_hash
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.static_ct import parse_data_tile
from certstream.ct.types import LogInfo
from certstream.simulator.shapes import SHAPES, UNPARSEABLE, plain_leaf

DATA: Final = Path(__file__).parent.parent / "tests" / "data"
CLASSIC: Final = LogInfo("Log", "https://log.example/", "rfc6962", "example")
TILED: Final = LogInfo("Tiled", "https://tiled.example/", "static", "example")
TILE: Final = (DATA / "tiles" / "data-000").read_bytes()
CHECKPOINT: Final = (DATA / "checkpoint" / "checkpoint").read_bytes()
CHECKPOINT_LOG: Final[dict[str, Any]] = orjson.loads((DATA / "checkpoint" / "log.v3.json").read_bytes())


def shaped(label: str, seed: int) -> dict[str, bytes]:
    """One certificate of each of the simulator's shapes, by the shape's name."""
    found = {}
    for shape in SHAPES:
        random = Random(f"{label} {shape.name} {seed}")
        draft = plain_leaf(f"{label} {shape.name} {seed}", random)
        shape.change(draft, random)
        found[shape.name] = draft.certificate(draft.tbs())
    for kind, write in UNPARSEABLE:
        random = Random(f"{label} {kind} {seed}")
        found[kind] = write(plain_leaf(f"{label} {kind} {seed}", random), random)
    return found


@cache
def corpus() -> list[dict[str, Any]]:
    """20 real entries of RFC 6962 logs."""
    entries: list[dict[str, Any]] = orjson.loads((DATA / "ct_entries.json").read_bytes())
    return entries


@cache
def entry_parts() -> list[bytes]:
    """leaf_input and extra_data of the first of them, of the second, and so on."""
    return [pybase64.b64decode(entry[key]) for entry in corpus() for key in ("leaf_input", "extra_data")]


@cache
def certificates() -> list[bytes]:
    """DER of real certificates and precertificates, of those that strict parsers reject, and of every shape."""
    batches = (frame_entries(CLASSIC, 0, entry_parts()), parse_data_tile(TILED, 0, TILE).batch)
    found = [der for batch in batches for der in batch.cert.slices(batch.data)][:60]
    found += [ssl.PEM_cert_to_DER_cert(path.read_text()) for path in sorted((DATA / "malformed").glob("*.pem"))]
    return [*found, *(der for der in shaped("seed", 0).values() if len(der) < 20_000)]


def entries() -> list[bytes]:
    """Entries as `framed` writes them, of both types, with the signer of a precertificate among them."""
    parts = entry_parts()
    return [framed(parts[at : at + 2]) for at in range(0, len(parts), 2)]


def framed(parts: Sequence[bytes]) -> bytes:
    """Byte strings in one: a length of three bytes before each."""
    return b"".join(len(part).to_bytes(3) + part for part in parts)


def unframed(data: bytes, most: int) -> list[bytes]:
    """The byte strings in `data`, `most` at most; where a length reaches too far, what is left is one."""
    found: list[bytes] = []
    at = 0
    while at < len(data) and len(found) < most:
        stop = at + 3 + int.from_bytes(data[at : at + 3])
        found.append(data[at + 3 : stop])
        at = stop
    return found


def pages() -> list[bytes]:
    """get-entries answers."""
    texts = [{key: entry[key] for key in ("leaf_input", "extra_data")} for entry in corpus()]
    return [orjson.dumps({"entries": texts[at : at + count]}) for at, count in ((0, 0), (0, 1), (3, 2), (7, 4))]


def tiles() -> list[bytes]:
    """Data tiles of some leaves."""
    batch = parse_data_tile(TILED, 0, TILE).batch
    return [TILE[: int(batch.chain.stop[count - 1])] for count in (1, 2, 5)]


@cache
def tree() -> MerkleTree:
    """A tree of 300 leaves."""
    found = MerkleTree()
    found.append(b"".join(leaf_hash(b"leaf %d" % index) for index in range(300)))
    return found


def answers() -> list[bytes]:
    """Answers of an RFC 6962 log beside get-entries."""
    path = [pybase64.b64encode(each).decode() for each in tree().inclusion_proof(77, 300)]
    root = pybase64.b64encode(tree().root(300)).decode()
    head = {
        "tree_size": 300,
        "timestamp": 1_767_139_200_000,
        "sha256_root_hash": root,
        "tree_head_signature": "BAMABA==",
    }
    leaf = corpus()[0]["leaf_input"]
    bodies = (
        head,
        {"consistency": path},
        {"leaf_index": 77, "audit_path": path},
        {"leaf_input": leaf, "extra_data": "", "audit_path": path},
    )
    return [orjson.dumps(body) for body in bodies]


def checkpoints() -> list[bytes]:
    """A real checkpoint, and the same with lines of others."""
    foreign = "— witness.example AQIDBAAAAAAAAAAAAAAA\n".encode()
    return [CHECKPOINT, CHECKPOINT + foreign, CHECKPOINT.replace(b"\n\n", b"\n\n" + foreign)]


def log_lists() -> list[bytes]:
    """Small lists cut out of the real ones."""
    google = orjson.loads((DATA / "log_list" / "all_logs_list.json").read_bytes())
    lists = []
    for operator in google["operators"]:
        short = {**operator, "logs": operator["logs"][:2], "tiled_logs": operator.get("tiled_logs", [])[-2:]}
        lists.append(orjson.dumps({**google, "operators": [short]}))
    return lists
