"""The report of the archive's coverage: a table that can be read, and JSON that is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from certstream.app.coverage.report import CoverageReport, LogCoverage
from certstream.intervals import Intervals

NOTHING = Intervals()


def coverage(name: str | None = "argon", url: str = "https://argon.example", **known: Any) -> LogCoverage:
    empty: dict[str, Any] = dict.fromkeys(
        ("archived", "staged", "verified", "tainted", "altered", "unparseable", "dropped", "missing"), NOTHING
    )
    return LogCoverage(name=name, url=url, **({"ceiling": 1_000} | empty | known))


def report(*logs: LogCoverage, staging: Path | None = None) -> CoverageReport:
    return CoverageReport(Path("/archive"), staging, 1_700_000_000.5, logs)


def scattered(count: int) -> Intervals:
    return Intervals.from_indices(np.arange(0, 3_000_000 * count, 3_000_000, dtype=np.int64) + 1_234_567_890)


WHOLE = coverage(
    archived=Intervals.of((0, 5_000_000), (6_000_000, 6_000_001)),
    verified=Intervals.of((0, 4_999_000)),
    tainted=Intervals.of((4_999_000, 5_000_000)),
    unparseable=Intervals.of((17, 18)),
    missing=Intervals.of((5_000_000, 6_000_000)),
)


def test_the_table_shows_counts_and_indices() -> None:
    assert report(WHOLE, coverage(None, "https://old.example", missing=None)).text() == (
        "argon  https://argon.example\n"
        "  archived           5,000,001  0 to 4,999,999, 6,000,000\n"
        "  verified           4,999,000  0 to 4,998,999\n"
        "  unverified                 1  6,000,000\n"
        "  tainted                1,000  4,999,000 to 4,999,999\n"
        "  unparseable                1  17\n"
        "  missing            1,000,000  5,000,000 to 5,999,999\n"
        "\n"
        "https://old.example\n"
        "  is not configured\n"
        "  archived                   0\n"
        "  verified                   0\n"
        "  missing                    ?  no position of it is known\n"
        "\n"
        "all logs: 2\n"
        "  archived           5,000,001\n"
        "  verified           4,999,000\n"
        "  unverified                 1\n"
        "  tainted                1,000\n"
        "  unparseable                1\n"
        "  missing            1,000,000\n"
    )


def test_of_many_intervals_as_many_are_shown_as_have_room() -> None:
    for count in (1, 2, 3, 4, 5, 19, 20, 21, 100_000):
        text = report(coverage(archived=scattered(count))).text()
        line = next(line for line in text.splitlines() if line.startswith("  archived"))
        assert len(line) <= 100
        assert "1,234,567,890" in line
        assert ("… and" in line) == (count > 4), line
    assert line.endswith(", 1,240,567,890, … and 99,997 more")


def test_the_table_is_at_most_100_columns_wide() -> None:
    wide = Intervals.of(*((10**15 + 4 * n, 10**15 + 4 * n + 2) for n in range(50)))
    text = report(coverage(archived=wide, verified=wide, missing=wide), staging=Path("s")).text()
    assert max(map(len, text.splitlines())) <= 100
    assert "1,000,000,000,000,000 to 1,000,000,000,000,001, … and 49 more" in text


def test_staging_is_shown_where_it_is_asked_for() -> None:
    staged = coverage(staged=Intervals.of((0, 10)))
    assert "staged" not in report(staged).text()
    assert "  staged                    10  0 to 9\n" in report(staged, staging=Path("/staging")).text()
    document = json.loads(report(staged, staging=Path("/staging")).json())
    assert (document["staging_path"], document["totals"]["staged"]) == ("/staging", 10)
    assert document["logs"][0]["unverified"]["count"] == 10


def test_the_json_is_complete() -> None:
    document = json.loads(report(WHOLE, coverage(None, missing=None, ceiling=None)).json())
    assert (document["table_path"], document["staging_path"], document["taken"]) == ("/archive", None, 1_700_000_000.5)
    assert document["totals"] == {
        "archived": 5_000_001,
        "verified": 4_999_000,
        "unverified": 1,
        "tainted": 1_000,
        "altered": 0,
        "unparseable": 1,
        "dropped": 0,
        "missing": 1_000_000,
    }
    first, second = document["logs"]
    assert (first["name"], first["url"], first["ceiling"]) == ("argon", "https://argon.example", 1_000)
    assert first["archived"] == {"count": 5_000_001, "intervals": [[0, 5_000_000], [6_000_000, 6_000_001]]}
    assert first["altered"] == {"count": 0, "intervals": []}
    assert (second["name"], second["ceiling"], second["missing"]) == (None, None, None)
    many = json.loads(report(coverage(archived=scattered(1_000))).json())
    assert len(many["logs"][0]["archived"]["intervals"]) == 1_000


def test_every_word_of_the_report_is_explained() -> None:
    page = (Path(__file__).parents[3] / "docs" / "verification.md").read_text()
    for kind in json.loads(report(staging=Path("/staging")).json())["totals"]:
        assert f"\n| {kind} | " in page


def test_logs_are_chosen_by_a_part_of_their_name_or_url() -> None:
    whole = report(WHOLE, coverage(None, "https://old.example"), coverage("Xenon", "https://x.example"))
    assert [log.url for log in whole.only("XEN").logs] == ["https://x.example"]
    assert [log.url for log in whole.only("OLD").logs] == ["https://old.example"]
    assert whole.only("nowhere").logs == ()


def test_names_of_logs_cannot_confuse_a_terminal() -> None:
    assert "\x1b" not in report(coverage("argon\x1b[2J", "https://x.example/\x1b")).text()
