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

from certstream.certs.columns import Certificates
from certstream.certs.der import SLOTS
from certstream.ct.edge import TreeEdge
from certstream.ct.hash_tiles import edge_tiles
from certstream.ct.log_list import GOOGLE_LIST_KEY
from certstream.ct.merkle import MerkleTree, leaf_hash
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.static_ct import parse_checkpoint, parse_data_tile
from certstream.ct.types import HASH_BYTES, TILE_WIDTH, LogInfo
from certstream.simulator.certificates import public_key
from certstream.simulator.shapes import SHAPES, UNPARSEABLE, plain_leaf

DATA: Final = Path(__file__).parent.parent / "tests" / "data"
CLASSIC: Final = LogInfo("Log", "https://log.example/", "rfc6962", "example")
TILED: Final = LogInfo("Tiled", "https://tiled.example/", "static", "example")
TILE: Final = (DATA / "tiles" / "data-000").read_bytes()
CHECKPOINT: Final = (DATA / "checkpoint" / "checkpoint").read_bytes()
_CHECKPOINT_LOG: Final[dict[str, Any]] = orjson.loads((DATA / "checkpoint" / "log.v3.json").read_bytes())
CHECKPOINT_KEY: Final = pybase64.b64decode(_CHECKPOINT_LOG["key"])
CHECKPOINT_ORIGIN: Final[str] = _CHECKPOINT_LOG["description"]


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


def edges() -> list[bytes]:
    """Edges of trees, as they are kept."""
    leaves = tree().tile(0, 0)
    return [TreeEdge().extended(leaves[: HASH_BYTES * count]).to_bytes() for count in (0, 1, 7, 255, 256)]


def proofs() -> list[bytes]:
    """Valid inclusion and consistency proofs."""
    grown = tree()
    found = []
    for first, second in ((0, 1), (6, 7), (77, 300), (255, 256), (299, 300), (128, 256)):
        numbers = first.to_bytes(8) + second.to_bytes(8)
        root = grown.root(second)
        found.append(numbers + b"".join((grown.leaf(first), root, *grown.inclusion_proof(first, second))))
        if first:
            found.append(numbers + b"".join((grown.root(first), root, *grown.consistency_proof(first, second))))
    return found


def hash_tiles() -> list[bytes]:
    """Sizes, roots, their tiles, and leaves, as `check_hash_tiles` takes them."""
    grown, found = tree(), []
    for size in (1, 255, 256, 300):
        partial = b"".join(grown.tile(tile.level, tile.index, tile.width) for tile in edge_tiles(size))
        leaves = grown.tile(0, 0, min(TILE_WIDTH, size))
        found.append(size.to_bytes(8) + grown.root(size) + partial + leaves)
    return found


def signatures() -> list[bytes]:
    """A real signature with its key, and keys of other kinds."""
    signature = parse_checkpoint(CHECKPOINT).signature
    return [framed([key, signature]) for key in (CHECKPOINT_KEY, GOOGLE_LIST_KEY, public_key("ed25519", 0))]


def names() -> list[bytes]:
    """Distinguished names."""
    certs = Certificates(certificates())
    found = [*certs.optional_slices(*certs.fields.subject), *certs.optional_slices(*certs.fields.issuer)]
    return sorted({name for name in found if name})


def values() -> list[bytes]:
    """Values of extensions, and names among the subject alternative ones."""
    certs = Certificates(certificates())
    found = {value for slot in range(SLOTS) for value in certs.extension(slot) if value and len(value) < 500}
    return sorted(found | set(certs.fields.name.slices(certs.data)[:50]))


TIMES: Final = (b"260101000000Z", b"20260101000000Z", b"2601010000-0130", b"20260101000000.5+2359", b"99991231235959Z")
URLS: Final = (
    b"https://log.example/2026h1/",
    b"http://LOG.example:80/a/",
    b"https://[2001:db8::1]:8443/x",
    b"https://x",
)
