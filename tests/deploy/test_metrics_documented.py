"""docs/metrics.md lists what a running service shows, and Prometheus's conventions hold for all of it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from certstream.metrics import Metrics
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog
from certstream.simulator.server import SimulatorServer
from tests.ct.log_list_support import classic, document
from tests.deploy.deploy_support import Family, documented, families
from tests.e2e.command_support import STAGING, archive_options
from tests.e2e.e2e_support import PATIENCE_S, Service

UNITS = ("seconds", "bytes", "entries", "logs", "rows", "ranges", "certificates", "clients", "info", "total", "fds")
# Yes or no, and what counts neither a unit nor things: positions, a size that a specification names, states.
UNITLESS = {
    "certstream_log_position",
    "certstream_log_tree_size",
    "certstream_log_state",
    "certstream_log_unverified",
    "certstream_log_delivery_share",
    "certstream_log_delivery_cause",
    "certstream_delivery_share",
    "certstream_log_suspect",
    "certstream_log_verified_position",
    "certstream_delta_archived_position",
    "certstream_delta_available",
    "certstream_backfill_entries_planned",
    "certstream_backfill_running",
    "certstream_merge_running",
    "certstream_maintenance_running",
    "certstream_state_saved",
    "certstream_config_in_effect",
}


async def everything_on(directory: Path) -> str:
    """/metrics of a service that archived, filled and merged, read broken certificates, and met a failing log."""
    log = SimulatedLog("log", kinds={"rfc6962", "static"}, initial=600, seed=3, unparseable=0.1)
    (directory / "list.json").write_bytes(document(classic(1)))
    listed = {"name": "ours", "location": "list.json", "unsigned": True}
    async with SimulatorServer([log]) as server:
        options = archive_options(
            server.infos(),
            delta_sink={"enabled": True},
            backfill={"staging_path": STAGING, "from_index": 0, "on_start": True},
            maintenance={"enabled": True, "interval_secs": 10},
            hot_reload={"enabled": True},
            log_lists={"enabled": True, "google": False, "apple": False, "exclude_names": ["Log 1"], "lists": [listed]},
        )
        failing = log.faults.add(Fault(FaultKind.SERVER_ERROR, on="get-sth"))
        async with Service(directory, options, ()) as service, asyncio.timeout(PATIENCE_S):
            await service.until(lambda line: line["event"] == "log cannot be read, trying again")
            log.faults.remove(failing)
            await service.until_following(*server.infos())
            await service.until(lambda line: line["event"] == "merge complete" or "failed" in line["event"])
            log.grow(100)
            text = ""
            while not re.search(r"^certstream_decode_failures_total\{.* [1-9]", text, re.MULTILINE):
                _, text = await service.get("/metrics")
            return text


async def test_the_list_is_equal_to_what_a_service_with_everything_on_shows(tmp_path: Path) -> None:
    shown, listed = families(await everything_on(tmp_path)), documented()
    assert set(shown) - set(listed) == set(), "shown and not listed"
    assert set(listed) - set(shown) == set(), "listed and not shown"
    assert shown == listed


@pytest.fixture(scope="module")
def defined() -> list[Family]:
    metrics = Metrics()
    _ = metrics.archive
    return list(families(metrics.exposition().decode()).values())


def test_counters_and_only_they_end_in_total(defined: list[Family]) -> None:
    for family in defined:
        assert family.name.endswith("_total") == (family.type == "counter"), family.name


def test_every_name_says_its_unit_or_what_it_counts(defined: list[Family]) -> None:
    ours = {family.name for family in defined if family.name.startswith("certstream_")}
    assert {name for name in ours if not name.endswith(UNITS)} == UNITLESS


def test_units_are_base_units_and_no_name_has_a_label_or_a_type_in_it(defined: list[Family]) -> None:
    for family in defined:
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|kib|mib|percent|gauge|counter|histogram)\b", family.name)
        assert not re.search(r"_by_|_per_", family.name)


def test_every_metric_has_a_help_of_its_own() -> None:
    metrics = Metrics()
    _ = metrics.archive
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", metrics.exposition().decode(), re.MULTILINE))
    ours = {name: text for name, text in helps.items() if name.startswith("certstream_")}
    assert len(ours) > 50
    assert len(set(ours.values())) == len(ours)
    assert [name for name, text in ours.items() if not text[0].isupper() and not text[0].isdigit()] == []
    assert [name for name, text in ours.items() if not text.endswith((".", "never."))] == []
