"""What decoding costs: CPU per entry from raw leaves to archive rows and to stream messages.

    python -m benchmarks.decode [--entries 1024] [--rounds 40]

Certificates are the 256 precertificates of a real data tile, in each copy with serial numbers of its own; issuers
and extension values repeat, as they do in a log. Prints CPU µs per entry, the least of all rounds, and what part
costs what.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from certstream.certs.batch import CertificateBatch, StreamKind, decode_together
from certstream.certs.chain import ChainTable
from certstream.certs.columns import Certificates
from certstream.ct.static_ct import parse_data_tile
from certstream.ct.types import TILE_WIDTH, EntryBatch, LogInfo

_TILE = Path(__file__).parent.parent / "tests" / "data" / "tiles" / "data-000"
_LOG = LogInfo("bench", "https://log.example/", "static", "bench")
_KINDS: tuple[StreamKind, ...] = ("full", "lite", "domains")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU per entry of decoding.")
    parser.add_argument("--entries", type=int, default=1024, help="per batch, a multiple of 256 (default 1024)")
    parser.add_argument("--rounds", type=int, default=40, help="of which the fastest counts (default 40)")
    args = parser.parse_args()
    bodies = distinct_tiles(max(1, args.entries // TILE_WIDTH))
    issuers = {fingerprint: _issuer(fingerprint) for fingerprint in _fingerprints(bodies[0])}
    entries = len(bodies) * TILE_WIDTH

    def frame() -> list[EntryBatch]:
        return [parse_data_tile(_LOG, TILE_WIDTH * i, body, issuers).batch for i, body in enumerate(bodies)]

    def decoded(batches: list[EntryBatch]) -> CertificateBatch:
        return decode_together(batches, 1.0, chains)

    chains = ChainTable()
    batches = frame()
    figures = {
        "raw leaves → Arrow batch of 20 columns": cpu_us(lambda: decoded(frame()).to_arrow(), entries, args.rounds),
        "  framing of the tiles": cpu_us(frame, entries, args.rounds),
        "  walk": cpu_us(lambda: decoded(batches), entries, args.rounds),
        "  SHA-1 and SHA-256": cpu_us(lambda: _hash(decoded(batches)), entries, args.rounds),
    }
    figures["  SHA-1 and SHA-256"] -= figures["  walk"]
    figures["  precertificates compared with their leaves"] = _after(_compare, decoded, batches, args.rounds)
    for kind in _KINDS:
        figures[f"decoded → {kind} messages"] = _after(partial(_encode, (kind,)), decoded, batches, args.rounds)
    together = _after(partial(_encode, _KINDS), decoded, batches, args.rounds)
    figures["decoded → full, lite and domains messages"] = together
    for name, figure in figures.items():
        print(f"{name:45} {figure:6.2f} µs per entry")
    print(f"{'full + lite + domains messages per core':45} {1e6 / together:6.0f} entries/s")


def distinct_tiles(count: int) -> list[bytes]:
    """Copies of the real tile whose certificates all differ in the last two octets of their serial numbers.

    So do those in the leaves.
    """
    body = _TILE.read_bytes()
    batch = parse_data_tile(_LOG, 0, body).batch
    certs = Certificates(batch.cert.slices(body))
    serials = certs.fields.serial
    in_leaves = zip(serials.slices(certs.data), batch.leaf.start.tolist(), strict=True)
    stops = [body.index(serial, leaf) + len(serial) for serial, leaf in in_leaves]
    stops += (batch.cert.start + serials.stop - certs.cert.start).tolist()
    copies = []
    for number in range(count):
        copy = bytearray(body)
        for stop in stops:
            copy[stop - 2 : stop] = number.to_bytes(2)
        copies.append(bytes(copy))
    return copies


def _fingerprints(body: bytes) -> set[bytes]:
    batch = parse_data_tile(_LOG, 0, body).batch
    return {chain[i : i + 32] for chain in set(batch.chain.slices(batch.data)) for i in range(0, len(chain), 32)}


def _issuer(fingerprint: bytes) -> bytes:
    """Some certificate to stand for an issuer that the tile only names."""
    batch = parse_data_tile(_LOG, 0, _TILE.read_bytes()).batch
    row = fingerprint[0]
    return batch.data[int(batch.cert.start[row]) : int(batch.cert.stop[row])]


def _encode(kinds: Sequence[StreamKind], batch: CertificateBatch) -> None:
    for kind in kinds:
        batch.messages(kind)


def _hash(batch: CertificateBatch) -> None:
    _ = batch.certs.sha1, batch.certs.sha256


def _compare(batch: CertificateBatch) -> None:
    if batch.altered_precertificates():
        raise RuntimeError("a precertificate is not that of its leaf")


def cpu_us(work: Callable[[], object], entries: int, rounds: int) -> float:
    """CPU µs per entry of the fastest round."""
    return min(_timed(work) for _ in range(rounds)) / entries * 1e6


def _timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _after(
    work: Callable[[CertificateBatch], object],
    decoded: Callable[[list[EntryBatch]], CertificateBatch],
    batches: list[EntryBatch],
    rounds: int,
) -> float:
    """CPU µs per entry of `work` on a batch that is decoded and hashed before the clock starts."""
    best = float("inf")
    for _ in range(rounds):
        ready = decoded(batches)
        _hash(ready)
        best = min(best, _timed(lambda: work(ready)))  # noqa: B023 - called at once
    return best / sum(map(len, batches)) * 1e6


if __name__ == "__main__":
    main()
