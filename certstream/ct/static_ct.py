"""static-ct-api answers: checkpoints, tile paths and data tiles, bytes → values. No I/O.

TileLeaf (C2SP static-ct-api, "Log Entries"), big-endian
0-7    timestamp, Unix ms                  } TimestampedEntry: the leaf_input of RFC 6962
8-9    entry_type                          } without its first two (zero) bytes
X.509:   u24 length, certificate           }
precert: issuer_key_hash[32], u24 length, TBSCertificate
u16 length, extensions                     }
precert only: u24 length, pre_certificate
u16 length in bytes, 32-byte SHA-256 of each chain certificate
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812 - the standard library's name says nothing on its own

import numpy as np
import pybase64

from certstream.ct.types import (
    HASH_BYTES,
    MAX_CHAIN,
    MAX_TREE_SIZE,
    PRECERT_ENTRY,
    TILE_WIDTH,
    X509_ENTRY,
    EntryBatch,
    LogInfo,
    Spans,
    TreeHead,
)
from certstream.errors import MalformedError

LEAF_PREFIX = b"\x00\x00\x00"  # 0x00 of the leaf hash, then version and leaf_type
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_X509_HEAD = Struct(">qHBH")  # timestamp, entry_type, u24 length
_PRECERT_HEAD = Struct(">QH32xBH")
_U24 = Struct(">BH")
_U16 = Struct(">H")
_COLUMNS = 8  # timestamp, type, then start and stop of leaf, certificate and chain


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line of a signed note (C2SP signed-note)."""

    name: str
    key_id: bytes  # 4 bytes
    payload: bytes  # for a log: u64 timestamp || DigitallySigned


@dataclass(frozen=True, slots=True)
class DataTile:
    """What a data tile holds: its entries, and why they end before the tile does."""

    batch: EntryBatch
    error: MalformedError | None


def key_id(name: str, log_id: bytes) -> bytes:
    """Key id of a log's note signature, 4 bytes of SHA-256(name || 0x0A || 0x05 || log id).

    Source: static-ct-api, "Checkpoints".
    """
    return hashlib.sha256(name.encode() + b"\n\x05" + log_id).digest()[:4]


def parse_checkpoint(body: bytes, origin: str | None = None, log_id: bytes | None = None) -> TreeHead:
    """The tree head of a checkpoint; raises MalformedError.

    `origin`, where given, must be the first line. The signature taken is the first under the first
    line's name, and with the log's key id where `log_id` is known; all others are ignored.
    """
    text, separator, signatures = body.partition(b"\n\n")
    lines = text.split(b"\n")
    if not separator or len(lines) != 3:
        raise MalformedError(f"a checkpoint has 3 lines before its signatures, this one {len(lines)}")
    name, size, root = (_utf8(line) for line in lines)
    if origin is not None and name != origin:
        raise MalformedError(f"checkpoint is of {name!r}, not of {origin!r}")
    if not _DECIMAL.fullmatch(size) or int(size) > MAX_TREE_SIZE:
        raise MalformedError(f"checkpoint size {size!r} is not a decimal number up to {MAX_TREE_SIZE}")
    root_hash = _base64(root)
    if len(root_hash) != HASH_BYTES:
        raise MalformedError(f"checkpoint root hash has {len(root_hash)} bytes, not {HASH_BYTES}")
    payload = _own_signature(parse_note_signatures(signatures), name, log_id)
    timestamp_ms = min(int.from_bytes(payload[:8]), MAX_TREE_SIZE)
    return TreeHead(int(size), timestamp_ms, root_hash, payload[8:], note=body)


def parse_note_signatures(lines: bytes) -> list[NoteSignature]:
    """The signature lines `— name base64` of a signed note; raises MalformedError."""
    if not lines.endswith(b"\n"):
        raise MalformedError("the signatures of a note end with a newline")
    return [_parse_note_signature(_utf8(line)) for line in lines[:-1].split(b"\n")]


def _parse_note_signature(line: str) -> NoteSignature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    blob = _base64(encoded)
    if dash != "\u2014" or not name or len(blob) < 5:
        raise MalformedError(f"not a signature line: {line[:80]!r}")
    return NoteSignature(name, blob[:4], blob[4:])


def _own_signature(signatures: list[NoteSignature], name: str, log_id: bytes | None) -> bytes:
    wanted = None if log_id is None else key_id(name, log_id)
    for signature in signatures:
        if signature.name == name and wanted in (None, signature.key_id):
            return signature.payload
    return b""


def _utf8(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as exc:
        raise MalformedError(f"not UTF-8: {line[:80]!r}") from exc


def _base64(text: str) -> bytes:
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as exc:
        raise MalformedError(f"not base64: {text[:80]!r}") from exc


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Path of a hash tile below the monitoring prefix, `width` hashes wide (1 to 256)."""
    return f"tile/{level}/{_tile_number(index, width)}"


def data_tile_path(index: int, width: int = TILE_WIDTH) -> str:
    """Path of the data tile of entries [256 * index, 256 * index + width)."""
    return f"tile/data/{_tile_number(index, width)}"


def issuer_path(fingerprint: bytes) -> str:
    """Path of the chain certificate with this SHA-256."""
    return f"issuer/{fingerprint.hex()}"


def _tile_number(index: int, width: int) -> str:
    """1234067 → x001/x234/067, with .p/W where the tile is partial (static-ct-api, "Merkle Tree")."""
    if not 0 < width <= TILE_WIDTH or index < 0:
        raise ValueError(f"no tile has index {index} and width {width}")
    digits = f"{index:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def parse_data_tile(log: LogInfo, start: int, body: bytes, issuers: Mapping[bytes, bytes] | None = None) -> DataTile:
    """The entries of a data tile, the first of which has index `start`: all up to where its framing breaks.

    At most the 256 that a tile holds; what comes after them is not looked at.
    """
    numbers: list[int] = []
    error = _frame(body, numbers)
    columns = np.ascontiguousarray(np.array(numbers, np.int64).reshape(-1, _COLUMNS).T)
    batch = EntryBatch(
        log=log,
        start=start,
        data=body,
        timestamp_ms=np.maximum(columns[0], 0),
        entry_type=columns[1],
        leaf=Spans(columns[2], columns[3]),
        cert=Spans(columns[4], columns[5]),
        chain=Spans(columns[6], columns[7]),
        leaf_prefix=LEAF_PREFIX,
        issuers=issuers or {},
    )
    return DataTile(batch, error)


def _frame(body: bytes, numbers: list[int]) -> MalformedError | None:
    """Append the _COLUMNS numbers of each leaf; the error that ended it, None at the end of the body."""
    pos = 0
    try:
        while pos < len(body) and len(numbers) < _COLUMNS * TILE_WIDTH:
            pos = _frame_leaf(body, pos, numbers)
    except (StructError, MalformedError) as exc:
        leaf = len(numbers) // _COLUMNS
        error = MalformedError(f"data tile breaks at byte {pos} of {len(body)}, leaf {leaf}: {exc}")
        error.__cause__ = exc
        return error
    return None


def _frame_leaf(body: bytes, pos: int, numbers: list[int]) -> int:
    """Read the leaf at `pos`; offset after it. A length that reaches too far fails at the next read or at the end."""
    timestamp, kind, high, low = _X509_HEAD.unpack_from(body, pos)
    if kind == X509_ENTRY:
        cert = pos + 13
        cert_stop = cert + (high << 16 | low)
        leaf_stop = cert_stop + 2 + _U16.unpack_from(body, cert_stop)[0]
        chain_head = leaf_stop
    elif kind == PRECERT_ENTRY:
        _, _, high, low = _PRECERT_HEAD.unpack_from(body, pos)
        tbs_stop = pos + 45 + (high << 16 | low)
        leaf_stop = tbs_stop + 2 + _U16.unpack_from(body, tbs_stop)[0]
        high, low = _U24.unpack_from(body, leaf_stop)
        cert = leaf_stop + 3
        chain_head = cert_stop = cert + (high << 16 | low)
    else:
        raise MalformedError(f"entry type {kind}: the length of such a leaf is not known")
    chain = chain_head + 2
    chain_stop: int = chain + _U16.unpack_from(body, chain_head)[0]
    if chain_stop > len(body) or (chain_stop - chain) % HASH_BYTES:
        raise MalformedError(f"chain of {chain_stop - chain} bytes with {len(body) - chain} left")
    numbers += (timestamp, kind, pos, leaf_stop, cert, cert_stop, chain, chain_stop)
    return chain_stop


def fingerprints(batch: EntryBatch) -> set[bytes]:
    """SHA-256 of every distinct chain certificate that the entries of a static log's batch name.

    Of the first MAX_CHAIN of each chain.
    """
    return {fingerprint for chain in set(batch.chain.slices(batch.data)) for fingerprint in split_fingerprints(chain)}


def split_fingerprints(chain: bytes) -> list[bytes]:
    """The fingerprints of one chain, the first MAX_CHAIN of them."""
    return [chain[i : i + HASH_BYTES] for i in range(0, min(len(chain), MAX_CHAIN * HASH_BYTES), HASH_BYTES)]
