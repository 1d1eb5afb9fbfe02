"""What deploy/ holds for Prometheus and Grafana, and the metrics that the service has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from certstream.metrics import Metrics
from tests.e2e.e2e_support import ROOT

DEPLOY: Final = ROOT / "deploy"
DOCS: Final = ROOT / "docs"

_WORDS: Final = frozenset(
    [
        "abs",
        "absent",
        "and",
        "avg",
        "avg_over_time",
        "bool",
        "by",
        "changes",
        "clamp_max",
        "clamp_min",
        "count",
        "delta",
        "group_left",
        "group_right",
        "histogram_quantile",
        "ignoring",
        "increase",
        "irate",
        "label_replace",
        "le",
        "max",
        "max_over_time",
        "min",
        "min_over_time",
        "offset",
        "on",
        "or",
        "predict_linear",
        "quantile",
        "rate",
        "sum",
        "time",
        "topk",
        "unless",
        "vector",
        "without",
    ]
)
_OF_PROMETHEUS: Final = frozenset({"up", "ALERTS"})
_OUTSIDE: Final = re.compile(
    r'"(?:[^"\\]|\\.)*"'  # strings
    r"|\{[^{}]*\}"  # what selects series
    r"|\[[^\[\]]*\]"  # over which time
    r"|\b(?:by|without|on|ignoring)\s*\([^()]*\)"  # labels
    r"|\b[0-9][0-9a-z.]*"  # numbers and durations
)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric as the exposition and docs/metrics.md name it."""

    name: str
    type: str
    labels: frozenset[str]


def load(path: str) -> dict[str, Any]:
    """A YAML file of deploy/."""
    document: dict[str, Any] = yaml.safe_load((DEPLOY / path).read_text())
    return document


def alerts() -> dict[str, dict[str, Any]]:
    """The alerting rules by their names."""
    return {rule["alert"]: rule for group in load("alerts.yml")["groups"] for rule in group["rules"]}


def dashboard() -> dict[str, Any]:
    """The Grafana dashboard."""
    document: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/certstream.json").read_text())
    return document


def panels() -> Iterator[dict[str, Any]]:
    """Every panel of the dashboard that is no row."""
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", ())
        else:
            yield panel


def names_in(query: str) -> set[str]:
    """The metrics that a query names: every word of it that is neither PromQL's nor a label."""
    plain = query
    while (outer := _OUTSIDE.sub(" ", plain)) != plain:
        plain = outer
    return {word for word in re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", plain) if word not in _WORDS}


def series_names() -> set[str]:
    """Every name that a query may use: those of the families, and of the parts of histograms."""
    metrics = Metrics()
    _ = metrics.archive
    found = set(_OF_PROMETHEUS)
    for family in families(metrics.exposition().decode()).values():
        suffixes = ("_bucket", "_count", "_sum") if family.type == "histogram" else ("",)
        found |= {family.name + suffix for suffix in suffixes}
    return found


def families(text: str) -> dict[str, Family]:
    """The families of an exposition in the text format, with the labels that their series have."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    for name, inside in re.findall(r"^([a-z_]+)\{(.*)\} \S+$", text, re.MULTILINE):
        family = name if name in types else re.sub(r"_(bucket|count|sum)$", "", name)
        labels[family] |= set(re.findall(r'(?:^|,)([a-z_]+)="', inside)) - {"le"}
    return {name: Family(name, kind, frozenset(labels[name])) for name, kind in types.items()}


def documented() -> dict[str, Family]:
    """The families of docs/metrics.md."""
    found: dict[str, Family] = {}
    for line in (DOCS / "metrics.md").read_text().splitlines():
        if line.startswith("| `"):
            name, kind, labels, _meaning, _use = (cell.strip() for cell in line.strip("|").split("|"))
            assert name.strip("`") not in found, f"{name} is listed twice"
            found[name.strip("`")] = Family(name.strip("`"), kind, frozenset(re.findall(r"`([a-z]+)`", labels)))
    return found
