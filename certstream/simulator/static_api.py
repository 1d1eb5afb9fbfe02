"""The monitoring side of static-ct-api: checkpoint, hash tiles, data tiles, issuers."""

from __future__ import annotations

import re

import pybase64

from certstream.ct.signatures import note_signature
from certstream.ct.static_ct import data_tile_path, tile_path
from certstream.ct.types import HASH_BYTES, TILE_WIDTH, TreeHead
from certstream.simulator.certificates import noise
from certstream.simulator.content import Answer, Content, RefusedError
from certstream.simulator.faults import Fault, FaultKind, Request
from certstream.simulator.log import SimulatedLog
from certstream.simulator.rfc6962_api import hash_with_faults
from certstream.simulator.views import View, view_of

_TILE = re.compile(r"tile/(data|[0-9])/((?:x[0-9]{3}/){0,4}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
_ISSUER = re.compile(r"issuer/([0-9a-f]{64})")
_IMMUTABLE = "public, max-age=604800, immutable"
_BINARY = "application/octet-stream"


def parse(log: SimulatedLog, path: str, *, gzip: bool) -> Request:
    """What is asked; raises RefusedError where nothing is."""
    if path == "checkpoint":
        return Request("checkpoint", path, range(log.tree_size))
    if issuer := _ISSUER.fullmatch(path):
        return Request("issuer", path, hash=bytes.fromhex(issuer[1]))
    tile = _TILE.fullmatch(path)
    if tile is None:
        raise RefusedError(404, f"no such path: {path}")
    number, width = int(re.sub(r"[x/]", "", tile[2])), int(tile[3] or TILE_WIDTH)
    level = None if tile[1] == "data" else int(tile[1])
    _check_canonical(path, level, number, width)
    each = TILE_WIDTH ** (level or 0)  # leaves below one hash
    first = number * TILE_WIDTH * each
    endpoint = "data-tile" if level is None else "hash-tile"
    numbers = (number, width) if level is None else (number, width, level)
    return Request(endpoint, path, range(first, first + width * each), numbers, gzip=gzip)


def _check_canonical(path: str, level: int | None, number: int, width: int) -> None:
    # one tile has one path: no full tile with a width, no leading groups of zeros
    if width <= TILE_WIDTH:
        canonical = data_tile_path(number, width) if level is None else tile_path(level, number, width)
        if path == canonical:
            return
    raise RefusedError(404, f"not the path of a tile: {path}")


def answer(log: SimulatedLog, content: Content, request: Request, faults: list[Fault]) -> Answer:
    """The log's answer, with the faults in it; raises RefusedError for what it does not have."""
    view = view_of(log, faults)
    if request.endpoint == "checkpoint":
        return Answer(200, checkpoint(log, view.head), "text/plain; charset=utf-8")
    if request.endpoint == "issuer":
        return _issuer(log, request, faults)
    _check_tile(log, view, request, faults)
    if request.endpoint == "hash-tile":
        number, width, level = request.numbers
        tile = view.tree.tile(level, number, width)
        tile = tile[:-HASH_BYTES] + hash_with_faults(tile[-HASH_BYTES:], faults)
        return Answer(200, tile, _BINARY, _IMMUTABLE)
    return _data_tile(log, content, request, faults)


def _issuer(log: SimulatedLog, request: Request, faults: list[Fault]) -> Answer:
    missing = any(fault.kind == FaultKind.MISSING_ISSUER for fault in faults)
    if missing or request.hash not in log.issuers:
        raise RefusedError(404, "no such issuer")
    return Answer(200, log.issuers[request.hash], "application/pkix-cert", _IMMUTABLE)


def _check_tile(log: SimulatedLog, view: View, request: Request, faults: list[Fault]) -> None:
    if request.covers.stop > view.tree_size:
        raise RefusedError(404, f"the tree has {view.tree_size} leaves")
    if not request.partial:
        return
    full_at = request.covers.start + TILE_WIDTH * len(request.covers) // request.numbers[1]
    if full_at <= view.tree_size and not log.keep_partials:
        raise RefusedError(404, "the full tile exists")
    if any(fault.kind == FaultKind.MISSING_PARTIAL for fault in faults):
        raise RefusedError(404, "no such partial tile")


def _data_tile(log: SimulatedLog, content: Content, request: Request, faults: list[Fault]) -> Answer:
    number, width = request.numbers
    gzipped = log.gzip == "always" or (log.gzip == "accepted" and request.gzip)
    if any(fault.kind == FaultKind.NO_ENTRIES for fault in faults):
        return Answer(200, b"", _BINARY)
    tile = content.gzipped_tile if gzipped else content.data_tile
    return Answer(200, tile(number, width, faults), _BINARY, _IMMUTABLE, gzipped)


def checkpoint(log: SimulatedLog, head: TreeHead) -> bytes:
    """The signed note of a head, with signatures besides the log's own that a reader has to ignore.

    One is of a witness, one under the log's own name with another key id, as real logs add them.
    """
    text = f"{log.origin}\n{head.tree_size}\n{_base64(head.root_hash)}\n"
    signatures = (
        (log.origin, note_signature(head, log.origin, log.log_id)),
        (log.origin, noise(f"grease {head.tree_size}", 68)),
        ("witness.example/w1", noise(f"witness {head.tree_size}", 76)),
    )
    lines = (f"\u2014 {name} {_base64(signature)}\n" for name, signature in signatures)
    return f"{text}\n{''.join(lines)}".encode()


def _base64(data: bytes) -> str:
    return pybase64.b64encode(data).decode()
