"""The endpoints of RFC 6962 §4, below `ct/v1/`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson
import pybase64

from certstream.ct.types import TreeHead
from certstream.simulator import certificates
from certstream.simulator.content import Answer, Content, RefusedError
from certstream.simulator.faults import Fault, FaultKind, Request
from certstream.simulator.log import SimulatedLog
from certstream.simulator.views import View, view_of

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_PREFIX = "ct/v1/"
_PARAMETERS = {
    "get-sth": (),
    "get-entries": ("start", "end"),
    "get-sth-consistency": ("first", "second"),
    "get-proof-by-hash": ("tree_size",),
    "get-entry-and-proof": ("leaf_index", "tree_size"),
    "get-roots": (),
}
ENDPOINTS = frozenset(_PARAMETERS)


def parse(log: SimulatedLog, path: str, query: Mapping[str, str]) -> Request:
    """What is asked; raises RefusedError where nothing is."""
    endpoint = path.removeprefix(_PREFIX)
    if not path.startswith(_PREFIX) or endpoint not in _PARAMETERS:
        raise RefusedError(404, f"no such path: {path}")
    numbers = tuple(_number(query, name) for name in _PARAMETERS[endpoint])
    hashed = _hash(query) if endpoint == "get-proof-by-hash" else b""
    shown = "&".join(f"{name}={value}" for name, value in query.items())
    covers = _covers(log, endpoint, numbers)
    return Request(endpoint, f"{path}?{shown}" if shown else path, covers, numbers, hashed)


def _covers(log: SimulatedLog, endpoint: str, numbers: tuple[int, ...]) -> range:
    if endpoint == "get-entries":
        return range(numbers[0], page_stop(log, *numbers))
    if endpoint == "get-entry-and-proof":
        return range(numbers[0], numbers[0] + 1)
    return range(log.tree_size if endpoint == "get-sth" else 0)


def page_stop(log: SimulatedLog, start: int, end: int) -> int:
    """Where the page that starts at `start` ends, exclusive: by request, tree, page size and boundary."""
    stop = min(end + 1, log.tree_size, start + log.max_page)
    if log.page_boundary:
        stop = min(stop, (start // log.page_boundary + 1) * log.page_boundary)
    return stop


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if not _NUMBER.fullmatch(text):
        raise RefusedError(400, f"{name} is a decimal number, not {text!r}")
    return int(text)


def _hash(query: Mapping[str, str]) -> bytes:
    try:
        return pybase64.b64decode(query.get("hash", ""), validate=True)
    except ValueError:
        raise RefusedError(400, "hash is base64") from None


def answer(log: SimulatedLog, content: Content, request: Request, faults: list[Fault]) -> Answer:
    """The log's answer, with the faults in it; raises RefusedError for what no tree of the log holds."""
    view = view_of(log, faults)
    if request.endpoint == "get-sth":
        return _json(_sth(view.head))
    if request.endpoint == "get-roots":
        return _json({"certificates": [_base64(der) for der in roots()]})
    if request.endpoint == "get-entries":
        return _entries(view, content, request, faults)
    return _proof(log, view, content, request, faults)


def _entries(view: View, content: Content, request: Request, faults: list[Fault]) -> Answer:
    start, end = request.numbers
    if start > end:
        raise RefusedError(400, f"start {start} is after end {end}")
    if start >= view.tree_size:
        raise RefusedError(400, f"need tree size: {start + 1} to get leaves but only got: {view.tree_size}")
    stop = min(request.covers.stop, view.tree_size)
    for fault in faults:
        if fault.kind == FaultKind.NO_ENTRIES:
            return _json({"entries": []})
        if fault.kind == FaultKind.SHORT_PAGE:
            stop = min(stop, start + fault.entries)
    return Answer(200, content.page(start, stop, faults), "application/json")


def _proof(log: SimulatedLog, view: View, content: Content, request: Request, faults: list[Fault]) -> Answer:
    try:
        if request.endpoint == "get-sth-consistency":
            proof = view.tree.consistency_proof(*_within(view, request.numbers))
            return _json({"consistency": _hashes(proof, faults)})
        if request.endpoint == "get-proof-by-hash":
            return _proof_by_hash(view, request, faults)
        index, size = _within(view, request.numbers)
        path = view.tree.inclusion_proof(index, size)
    except ValueError as exc:
        raise RefusedError(400, str(exc)) from exc
    leaf_input, extra_data = content.leaf_input(index, faults), log.entry(index).extra_data
    audit_path = _hashes(path, faults)
    return _json({"leaf_input": _base64(leaf_input), "extra_data": _base64(extra_data), "audit_path": audit_path})


def _proof_by_hash(view: View, request: Request, faults: list[Fault]) -> Answer:
    (size,) = _within(view, request.numbers)
    index = view.tree.index_of(request.hash, size) if len(request.hash) == 32 else None
    if index is None:
        raise RefusedError(404, f"no such leaf hash in the tree of {size} leaves")
    return _json({"leaf_index": index, "audit_path": _hashes(view.tree.inclusion_proof(index, size), faults)})


def _within(view: View, numbers: tuple[int, ...]) -> tuple[int, ...]:
    # what is appended but not published yet is not to be seen
    if numbers[-1] > view.tree_size:
        raise RefusedError(400, f"tree size {numbers[-1]} is beyond the published {view.tree_size}")
    return numbers


def roots() -> list[bytes]:
    """DER of the roots that certificates of the simulator chain to."""
    return list(dict.fromkeys(authority.chain[-1] for authority in certificates.authorities()))


def _sth(head: TreeHead) -> dict[str, object]:
    return {
        "tree_size": head.tree_size,
        "timestamp": head.timestamp_ms,
        "sha256_root_hash": _base64(head.root_hash),
        "tree_head_signature": _base64(head.signature),
    }


def _json(value: object) -> Answer:
    return Answer(200, orjson.dumps(value), "application/json")


def _hashes(proof: list[bytes], faults: list[Fault]) -> list[str]:
    if proof:
        proof = [*proof[:-1], hash_with_faults(proof[-1], faults)]
    return [_base64(each) for each in proof]


def hash_with_faults(node: bytes, faults: list[Fault]) -> bytes:
    """A hash as the tree has it, or what the faults make of it."""
    wrong = any(fault.kind == FaultKind.WRONG_HASH for fault in faults)
    return bytes(byte ^ 0xFF for byte in node) if wrong else node


def _base64(data: bytes) -> str:
    return pybase64.b64encode(data).decode()
