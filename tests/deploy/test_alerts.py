"""Alerts ask for metrics that exist, each is tested both ways, and the documents say what to do about each."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deploy.deploy_support import DEPLOY, DOCS, alerts, load, names_in, series_names

ALERTS = alerts()
each = pytest.mark.parametrize("name", ALERTS)


def expectations(alert: str) -> list[dict[str, Any]]:
    """The expectations of alerts_test.yml for what fires of that alert."""
    query = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    found = [group for group in load("alerts_test.yml")["tests"] if group["name"] == alert]
    return [test for group in found for test in group["promql_expr_test"] if test["expr"] == query]


def anchor(heading: str) -> str:
    """What a heading is linked by, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def sections() -> dict[str, str]:
    """Anchors of docs/operations.md with the text below each."""
    parts = re.split(r"^#{2,4} (.+)$", (DOCS / "operations.md").read_text(), flags=re.MULTILINE)
    return {anchor(heading): text.strip() for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


@each
def test_it_asks_for_metrics_that_exist(name: str) -> None:
    asked = names_in(ALERTS[name]["expr"])
    assert asked
    assert asked - series_names() == set()


@each
def test_it_is_shown_firing_and_not_firing(name: str) -> None:
    tests = expectations(name)
    assert [test for test in tests if test["exp_samples"]], "never firing"
    assert [test for test in tests if not test["exp_samples"]], "always firing"


@each
def test_it_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert re.fullmatch(r"Certstream([A-Z][a-z]+)+", name)
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "$labels" in rule["annotations"]["summary"], "of what?"


@each
def test_the_document_that_it_links_has_that_section(name: str) -> None:
    document, _, wanted = ALERTS[name]["annotations"]["runbook"].partition("#")
    assert (document, wanted) == ("docs/operations.md", name.lower())
    assert len(sections()[wanted].split()) > 20


def test_no_test_and_no_section_is_left_over() -> None:
    assert {group["name"] for group in load("alerts_test.yml")["tests"]} == set(ALERTS)
    assert {name for name in sections() if name.startswith("certstream")} == {anchor(name) for name in ALERTS}


def test_each_name_stands_once() -> None:
    assert sum(len(group["rules"]) for group in load("alerts.yml")["groups"]) == len(ALERTS)


def test_prometheus_loads_the_alerts_and_scrapes_the_job_that_they_ask_for() -> None:
    config = load("prometheus.yml")
    assert config["rule_files"] == ["alerts.yml"]
    assert (DEPLOY / "alerts.yml").is_file()
    assert "certstream" in {job["job_name"] for job in config["scrape_configs"]}
    asked = {job for rule in ALERTS.values() for job in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert asked == {"certstream"}


def test_memory_raises_an_alert_before_the_unit_slows_the_service_down() -> None:
    (gib,) = re.findall(r"> ([0-9.]+) \* 1024 \^ 3$", ALERTS["CertstreamMemoryHigh"]["expr"])
    (high,) = re.findall(r"^MemoryHigh=(\d+)G$", (DEPLOY / "certstream.service").read_text(), re.MULTILINE)
    assert float(gib) <= 0.8 * int(high)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("up", {"up"}),
        ('sum by (log) (rate(a_total{log="b c", x=~"d|e"}[5m])) / on (instance) f > 3', {"a_total", "f"}),
        (
            "histogram_quantile(0.9, sum by (le) (rate(a_bucket[$__rate_interval]))) or b offset 1h",
            {"a_bucket", "b"},
        ),
        ("time() - missing_metric > 24 * 3600 and 1e9 < c", {"missing_metric", "c"}),
    ],
)
def test_the_names_in_a_query_are_found(query: str, names: set[str]) -> None:
    assert names_in(query) == names
