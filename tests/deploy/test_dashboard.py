"""The Grafana dashboard: what Grafana needs of it, and queries of metrics that exist."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest

from certstream.metrics import LOG_STATES
from tests.deploy.deploy_support import dashboard, load, names_in, panels, series_names

DASHBOARD = dashboard()
PANELS = list(panels())
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
SECTIONS = ["Overview", "Streams and clients", "Logs", "Verification", "Archive", "Backfill, merge, upkeep", "Process"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def variable(name: str) -> dict[str, Any]:
    (found,) = [each for each in DASHBOARD["templating"]["list"] if each["name"] == name]
    return dict(found)


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_every_query_names_existing_metrics_and_variables(title: str, query: str) -> None:
    known = {"$" + each["name"] for each in DASHBOARD["templating"]["list"]} | {"$__rate_interval"}
    assert set(re.findall(r"\$\w+", query)) <= known, title
    asked = names_in(query)
    assert asked, title
    assert asked - series_names() == set(), title


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_counters_are_asked_for_their_growth_and_gauges_for_their_value(title: str, query: str) -> None:
    names = "|".join(name for name in names_in(query) if name.endswith(("_total", "_bucket", "_count", "_sum")))
    if names:
        assert re.search(rf"(rate|increase)\(({names})", query), title
    else:
        assert not re.search(r"\b(rate|increase)\(", query), title


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_the_chosen_instances_hold_for_every_query(title: str, query: str) -> None:
    selectors = re.findall(r"\b(?:up|(?:certstream|process|python)_\w+)(\{[^}]*\})?", query)
    assert all('instance=~"$instance"' in selector for selector in selectors if selector), title
    assert any(selectors) or "ALERTS" in query, title


def test_the_sections_are_there_in_their_order() -> None:
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == SECTIONS


def test_the_data_source_is_a_variable_that_begins_as_the_provisioned_one() -> None:
    (source,) = load("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["type"] == variable("datasource")["query"] == "prometheus"
    assert source["uid"] == variable("datasource")["current"]["value"]
    for panel in PANELS:
        assert panel["datasource"] == SOURCE, panel["title"]
        assert all(target["datasource"] == SOURCE for target in panel["targets"]), panel["title"]
    assert variable("instance")["datasource"] == variable("log")["datasource"] == SOURCE


def test_it_is_provisioned_under_an_address_of_its_own() -> None:
    (provider,) = load("grafana/provisioning/dashboards/certstream.yml")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert (DASHBOARD["uid"], DASHBOARD["id"]) == ("certstream", None), "an id would be of one database"
    assert DASHBOARD["schemaVersion"] >= 39, "Grafana 11"


def test_panels_have_what_a_person_needs() -> None:
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries", "state-timeline"}
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "state-timeline", panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert panel["type"] == "stat" or (all(legends) and len(set(legends)) == len(legends)), panel["title"]
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) > 40


def test_no_panel_covers_another_and_all_are_within_the_24_columns() -> None:
    everything = [*DASHBOARD["panels"]]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in everything:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for a, b in combinations([panel["gridPos"] for panel in everything], 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below


def test_the_timeline_of_logs_has_a_word_for_every_state() -> None:
    (timeline,) = [panel for panel in PANELS if panel["title"] == "State"]
    (target,) = timeline["targets"]
    weights = {state: int(n) for n, state in re.findall(r'(\d) \* [^+]*state="(\w+)"', target["expr"])}
    (mapping,) = timeline["fieldConfig"]["defaults"]["mappings"]
    words = {value: option["text"].replace(" ", "_") for value, option in mapping["options"].items()}
    assert {words[str(weights.get(state, 0))] for state in LOG_STATES} == set(LOG_STATES)
    assert all(words[str(weights.get(state, 0))] == state for state in LOG_STATES)
