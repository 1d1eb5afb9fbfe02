"""RFC 6962 answers: bytes of a response body → values. No I/O.

A get-entries body is decoded in one go: one JSON pass, SIMD base64, then the framing of all
entries at once with numpy.

    MerkleTreeLeaf (RFC 6962 §3.4), big-endian        extra_data (§4.6)
    0      version = 0                                X.509:   u24 total || (u24 length || DER)*
    1      leaf_type = 0                              precert: u24 length || pre_certificate ||
    2-9    timestamp, Unix ms                                  u24 total || (u24 length || DER)*
    10-11  entry_type
    X.509:   12-14 u24 length, certificate
    precert: 12-43 issuer_key_hash, 44-46 u24 length, TBSCertificate
    end    u16 length, extensions
"""

from __future__ import annotations

from typing import Final, TypeAlias, TypeVar

import msgspec
import numpy as np
import pybase64
from numpy.typing import NDArray

from certstream.ct.types import (
    HASH_BYTES,
    MAX_CHAIN,
    MAX_TREE_SIZE,
    PADDING,
    PRECERT_ENTRY,
    UNKNOWN_ENTRY,
    X509_ENTRY,
    EntryBatch,
    Int64Array,
    LogInfo,
    Spans,
    TreeHead,
)
from certstream.errors import MalformedError

ByteArray: TypeAlias = NDArray[np.uint8]

T = TypeVar("T")

_MOST_HASHES = 65
_X509_HEAD = 15  # bytes of a leaf before the certificate
_PRECERT_HEAD = 47  # bytes of a leaf before the TBSCertificate


class _Sth(msgspec.Struct):
    tree_size: int
    timestamp: int
    sha256_root_hash: str
    tree_head_signature: str


class _Entry(msgspec.Struct, gc=False):
    leaf_input: str
    extra_data: str


class _Entries(msgspec.Struct):
    entries: list[_Entry]


class _Consistency(msgspec.Struct):
    consistency: list[str]


class _ProofByHash(msgspec.Struct):
    leaf_index: int
    audit_path: list[str]


class _EntryAndProof(msgspec.Struct):
    leaf_input: str
    audit_path: list[str]


# What decoding raises where a body is not JSON of that form, or nests without an end
_NOT_DECODED: Final = (msgspec.MsgspecError, RecursionError, ValueError)

_sth_decoder = msgspec.json.Decoder(_Sth)
_entries_decoder = msgspec.json.Decoder(_Entries)


def parse_sth(body: bytes) -> TreeHead:
    """The tree head of a get-sth answer (RFC 6962 §4.3); raises MalformedError."""
    try:
        sth = _sth_decoder.decode(body)
        root_hash = pybase64.b64decode(sth.sha256_root_hash, validate=True)
        signature = pybase64.b64decode(sth.tree_head_signature, validate=True)
    except _NOT_DECODED as exc:
        raise MalformedError(f"not a get-sth answer: {exc}") from exc
    if len(root_hash) != 32:
        raise MalformedError(f"sha256_root_hash has {len(root_hash)} bytes, not 32")
    if not 0 <= sth.tree_size <= MAX_TREE_SIZE or not 0 <= sth.timestamp <= MAX_TREE_SIZE:
        raise MalformedError(f"tree_size {sth.tree_size} or timestamp {sth.timestamp} out of range")
    return TreeHead(sth.tree_size, sth.timestamp, root_hash, signature)


def parse_consistency(body: bytes) -> list[bytes]:
    """The proof of a get-sth-consistency answer (RFC 6962 §4.4); raises MalformedError."""
    return _hashes(_decoded(body, _Consistency, "get-sth-consistency").consistency)


def parse_proof_by_hash(body: bytes) -> tuple[int, list[bytes]]:
    """Index and audit path of a get-proof-by-hash answer (RFC 6962 §4.5); raises MalformedError."""
    answer = _decoded(body, _ProofByHash, "get-proof-by-hash")
    if not 0 <= answer.leaf_index < MAX_TREE_SIZE:
        raise MalformedError(f"leaf_index {answer.leaf_index} out of range")
    return answer.leaf_index, _hashes(answer.audit_path)


def parse_entry_and_proof(body: bytes) -> tuple[bytes, list[bytes]]:
    """leaf_input and audit path of a get-entry-and-proof answer (RFC 6962 §4.8); raises MalformedError."""
    answer = _decoded(body, _EntryAndProof, "get-entry-and-proof")
    try:
        leaf_input = pybase64.b64decode(answer.leaf_input, validate=True)
    except ValueError as exc:
        raise MalformedError(f"leaf_input is not base64: {exc}") from exc
    return leaf_input, _hashes(answer.audit_path)


def _decoded(body: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except _NOT_DECODED as exc:
        raise MalformedError(f"not a {name} answer: {exc}") from exc


def _hashes(texts: list[str]) -> list[bytes]:
    """A proof's hashes; no proof has more than one for each level of a tree, and one."""
    if len(texts) > _MOST_HASHES:
        raise MalformedError(f"a proof of {len(texts)} hashes")
    try:
        hashes = [pybase64.b64decode(text, validate=True) for text in texts]
    except ValueError as exc:
        raise MalformedError(f"a proof's hash is not base64: {exc}") from exc
    if any(len(each) != HASH_BYTES for each in hashes):
        raise MalformedError(f"a proof holds something else than hashes of {HASH_BYTES} bytes")
    return hashes


def parse_get_entries(log: LogInfo, start: int, body: bytes, most: int | None = None) -> EntryBatch:
    """The entries of a get-entries answer, the first of which has index `start`; maybe none, at most `most`.

    Raises MalformedError where the body is no such answer: not JSON, other fields, bad base64.
    A single entry that does not follow its layout stays an entry, of type UNKNOWN_ENTRY.
    """
    decode = pybase64.b64decode
    try:
        entries = _entries_decoder.decode(body).entries[:most]
        parts = [decode(text, validate=True) for e in entries for text in (e.leaf_input, e.extra_data)]
    except _NOT_DECODED as exc:
        raise MalformedError(f"not a get-entries answer: {exc}") from exc
    return frame_entries(log, start, parts)


def frame_entries(log: LogInfo, start: int, parts: list[bytes]) -> EntryBatch:
    """A batch of raw entries: `parts` is leaf_input and extra_data of the first, of the second, and so on."""
    bounds = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=bounds[1:])
    data = b"".join([*parts, PADDING])
    leaf = Spans(bounds[:-1:2], bounds[1::2])
    extra = Spans(bounds[1:-1:2], bounds[2::2])
    return _frame(log, start, data, leaf, extra)


def _frame(log: LogInfo, start: int, data: bytes, leaf: Spans, extra: Spans) -> EntryBatch:
    octets = np.frombuffer(data, np.uint8)
    timestamp, kind = _read_heads(octets, leaf)
    x509, x509_chain, x509_ok = _frame_x509(octets, leaf, extra)
    precert, precert_chain, precert_ok = _frame_precert(octets, leaf, extra)
    is_x509 = (kind == X509_ENTRY) & x509_ok
    is_precert = (kind == PRECERT_ENTRY) & precert_ok
    empty = Spans(leaf.stop, leaf.stop)
    return EntryBatch(
        log=log,
        start=start,
        data=data,
        timestamp_ms=timestamp,
        entry_type=np.where(is_x509, X509_ENTRY, np.where(is_precert, PRECERT_ENTRY, UNKNOWN_ENTRY)),
        leaf=leaf,
        cert=_choose(is_x509, x509, is_precert, precert, leaf),
        chain=_choose(is_x509, x509_chain, is_precert, precert_chain, empty),
    )


def _read_heads(octets: ByteArray, leaf: Spans) -> tuple[Int64Array, Int64Array]:
    """Timestamp (0 where there is none) and entry type (UNKNOWN_ENTRY likewise) of each leaf."""
    whole = leaf.stop - leaf.start >= 12
    stamp = octets[leaf.start[:, None] + np.arange(2, 10)].view(">i8").astype(np.int64).reshape(-1)
    prefix = u16(octets, leaf.start)
    kind = np.where(whole & (prefix == 0), u16(octets, leaf.start + 10), UNKNOWN_ENTRY)
    return np.where(whole & (stamp >= 0), stamp, 0), kind


def _frame_x509(octets: ByteArray, leaf: Spans, extra: Spans) -> tuple[Spans, Spans, NDArray[np.bool_]]:
    cert, framed = _body_of_leaf(octets, leaf, _X509_HEAD)
    return cert, _chain(octets, extra.start, extra.stop), framed


def _frame_precert(octets: ByteArray, leaf: Spans, extra: Spans) -> tuple[Spans, Spans, NDArray[np.bool_]]:
    _, framed = _body_of_leaf(octets, leaf, _PRECERT_HEAD)
    cert_start = extra.start + 3
    cert_stop = cert_start + u24(octets, extra.start)
    framed &= cert_stop <= extra.stop
    cert_stop = np.where(framed, cert_stop, cert_start)
    return Spans(cert_start, cert_stop), _chain(octets, cert_stop, extra.stop), framed


def _body_of_leaf(octets: ByteArray, leaf: Spans, head: int) -> tuple[Spans, NDArray[np.bool_]]:
    """The certificate or TBSCertificate after `head` bytes, and whether leaf and extensions end where they should."""
    size = leaf.stop - leaf.start
    start = leaf.start + head
    framed = size >= head + 2
    length = np.where(framed, u24(octets, start - 3), 0)
    framed &= head + length + 2 <= size
    stop = np.where(framed, start + length, start)
    return Spans(start, stop), framed & (stop + 2 + u16(octets, stop) == leaf.stop)


def _chain(octets: ByteArray, start: Int64Array, stop: Int64Array) -> Spans:
    """The bytes after a u24 total, cut at `stop`; no hash covers them, so what is missing is just missing."""
    first = np.minimum(start + 3, stop)
    return Spans(first, np.minimum(first + u24(octets, start), stop))


def _choose(a: NDArray[np.bool_], in_a: Spans, b: NDArray[np.bool_], in_b: Spans, other: Spans) -> Spans:
    return Spans(
        np.where(a, in_a.start, np.where(b, in_b.start, other.start)),
        np.where(a, in_a.stop, np.where(b, in_b.stop, other.stop)),
    )


def u16(octets: ByteArray, at: Int64Array) -> Int64Array:
    """Big-endian 16-bit integers; positions past the end read the last bytes."""
    at = np.minimum(at, len(octets) - 3)
    return (octets[at].astype(np.int64) << 8) | octets[at + 1]


def u24(octets: ByteArray, at: Int64Array) -> Int64Array:
    """Big-endian 24-bit integers; positions past the end read the last bytes."""
    at = np.minimum(at, len(octets) - 3)
    return (octets[at].astype(np.int64) << 16) | (octets[at + 1].astype(np.int64) << 8) | octets[at + 2]


def split_chain(chain: bytes) -> list[bytes]:
    """The certificates of `(u24 length || DER)*` (§4.6), at most MAX_CHAIN, up to where the framing breaks."""
    found: list[bytes] = []
    pos = 0
    while pos + 3 < len(chain) and len(found) < MAX_CHAIN:
        start = pos + 3
        pos = start + int.from_bytes(chain[pos:start])
        if pos > len(chain) or pos == start:  # ASN.1Cert<1..2^24-1>: none is empty
            break
        found.append(chain[start:pos])
    return found
