"""Precertificates that are not the ones that their log's hash covers: counted, marked, and shown as evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from certstream.certs.batch import CertificateBatch
from certstream.ct.types import LogInfo
from certstream.evidence import Case
from certstream.trust_metrics import TrustMetrics

_MOST_CASES: Final = 10  # of a log; each has the bytes of an entry

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class AlteredPrecertificates:
    """Takes the rows whose precertificate is another than their leaf's; they mark entries, not the log."""

    def __init__(
        self,
        metrics: TrustMetrics,
        *,
        compares: Callable[[LogInfo], bool],
        mark: Callable[[LogInfo, Sequence[int]], None],
        evidence: Callable[[Case], None],
    ) -> None:
        """`compares` says whether a log's precertificates are compared; `mark` is given indices. None may raise."""
        self.compares = compares
        self._metrics = metrics
        self._mark = mark
        self._evidence = evidence
        self._cases: Counter[str] = Counter()  # by base_url

    def altered(self, batch: CertificateBatch, rows: Sequence[int]) -> None:
        """Note the rows of a batch, at least one, that are altered."""
        log = batch.log
        self._metrics.altered_precertificates.labels(log.name).inc(len(rows))
        self._mark(log, [batch.start + row for row in rows])
        if log.base_url not in self._cases:
            logger.warning(
                "precertificate is not the one that its log's hash covers, such entries are marked from now on",
                log=log.name,
                index=batch.start + rows[0],
            )
        for case in cases(batch, rows[: _MOST_CASES - self._cases[log.base_url]]):
            self._cases[log.base_url] += 1
            self._evidence(case)


def cases(batch: CertificateBatch, rows: Sequence[int]) -> Iterator[Case]:
    """What shows of each row that its precertificate is another than its leaf's."""
    for row in rows:
        index, issuer = batch.start + row, batch.issuer_der(row)
        error = f"{batch.log.name}: the precertificate of entry {index} is not that of its leaf"
        bodies = {"leaf": batch.leaf(row), "precertificate": batch.certs.ders[row]}
        if issuer is None:
            error += "; its issuer is not known, which matters for a Precertificate Signing Certificate's alone"
        else:
            bodies["issuer"] = issuer
        yield Case("altered_precert", batch.log, error, start=index, stop=index + 1, bodies=bodies)
