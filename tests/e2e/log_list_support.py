"""A publisher of a signed list of simulated logs, and a service that follows it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from certstream.ct.signatures import spki_of
from certstream.ct.types import LogKind
from certstream.simulator.log import SimulatedLog
from tests.client.log_list_support import Publisher
from tests.ct.log_list_support import SIGNER, Raw, text
from tests.e2e.e2e_support import options_for

LISTS = "log_lists"


def entry(log: SimulatedLog, kind: LogKind = "rfc6962", **changes: Any) -> Raw:
    """One usable log as it stands in a list; a change to None takes the member out."""
    urls = {"url": log.url(kind)}
    if kind == "static":
        urls = {"submission_url": f"https://{log.origin}/", "monitoring_url": log.url(kind)}
    raw = {
        "description": log.name,
        "log_id": text(log.log_id),
        "key": text(log.spki),
        "mmd": 86400,
        "state": {"usable": {"timestamp": "2026-01-01T00:00:00Z"}},
        **urls,
        **changes,
    }
    return {name: value for name, value in raw.items() if value is not None}


def readonly(log: SimulatedLog, tree_size: int, root_hash: bytes, kind: LogKind = "rfc6962") -> Raw:
    """The same of a log that takes no more entries."""
    head = {"tree_size": tree_size, "sha256_root_hash": base64.b64encode(root_hash).decode()}
    return entry(log, kind, state={"readonly": {"timestamp": "2026-01-01T00:00:00Z", "final_tree_head": head}})


def listing(publisher: Publisher, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that names no log, but that publisher's list, which it looks at as often as it may."""
    signed_list = {
        "name": "ours",
        "location": f"{publisher.base_url}/list.json",
        "signature": f"{publisher.base_url}/list.sig",
        "key": text(spki_of(SIGNER)),
    }
    lists = {"google": False, "apple": False, "refresh_interval_secs": 60, "lists": [signed_list]}
    options = options_for([], **sections.pop("ct_log", {}))
    return {**options, LISTS: {**lists, **sections.pop(LISTS, {})}, **sections}
