"""A precertificate that is not its leaf's is counted, marked and shown; its log is said once."""

from __future__ import annotations

from collections.abc import Sequence

from structlog.testing import capture_logs

from certstream.app.verification.altered import AlteredPrecertificates
from certstream.certs.batch import decode
from certstream.ct.rfc6962 import frame_entries
from certstream.ct.types import PRECERT_ENTRY, EntryBatch, LogInfo
from certstream.evidence import Case
from certstream.metrics import Metrics
from certstream.simulator.log import SimulatedLog

LOG = LogInfo("log", "https://log.example/", "rfc6962", "example")
START = 700


class Marked:
    """What was told of altered precertificates."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.marks: list[tuple[LogInfo, list[int]]] = []
        self.cases: list[Case] = []
        self.altered = AlteredPrecertificates(
            self.metrics.trust, compares=lambda log: True, mark=self._mark, evidence=self.cases.append
        )

    def _mark(self, log: LogInfo, indices: Sequence[int]) -> None:
        self.marks.append((log, list(indices)))

    def counted(self) -> float | None:
        return self.metrics.registry.get_sample_value("certstream_altered_precertificates_total", {"log": "log"})


def exchanged(count: int) -> tuple[SimulatedLog, EntryBatch, list[int]]:
    """Entries of which `count` precertificates are those of each other, and their rows."""
    log = SimulatedLog("log", seed=5, initial=400)
    rows = [row for row in range(400) if log.entry(row).entry_type == PRECERT_ENTRY][:count]
    parts = [(log.entry(row).leaf_input, log.entry(row).extra_data) for row in range(400)]
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        parts[row] = parts[row][0], log.entry(other).extra_data
    return log, frame_entries(LOG, START, [each for part in parts for each in part]), rows


def test_each_is_counted_and_marked_and_the_log_is_said_once() -> None:
    marked = Marked()
    assert marked.counted() is None
    _, entries, rows = exchanged(4)
    batch = decode(entries, 0.0)
    assert batch.altered_precertificates() == rows
    with capture_logs() as lines:
        marked.altered.altered(batch, rows[:3])
        marked.altered.altered(batch, rows[3:])
    assert marked.counted() == 4
    assert marked.marks == [(LOG, [START + row for row in rows[:3]]), (LOG, [START + rows[3]])]
    assert [(line["log"], line["index"]) for line in lines] == [("log", START + rows[0])]


def test_the_evidence_has_what_anybody_needs_to_compare_them_and_is_bounded() -> None:
    marked = Marked()
    log, entries, rows = exchanged(14)
    batch = decode(entries, 0.0)
    with capture_logs():
        marked.altered.altered(batch, rows[:9])
        marked.altered.altered(batch, rows[9:])
    assert [case.start for case in marked.cases] == [START + row for row in rows[:10]]
    case = marked.cases[0]
    assert (case.kind, case.log, case.stop) == ("altered_precert", LOG, START + rows[0] + 1)
    leaf = b"\x00" + log.entry(rows[0]).leaf_input
    assert case.bodies["leaf"] == leaf
    assert case.bodies["precertificate"] == log.entry(rows[1]).der
    assert case.bodies["issuer"] == log.entry(rows[1]).chain[0]
