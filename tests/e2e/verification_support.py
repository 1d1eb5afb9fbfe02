"""A service that verifies simulated logs, and what it found."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any, Final

from certstream.ct.types import PRECERT_ENTRY, LogInfo, LogKind
from certstream.simulator.entries import RawEntry
from certstream.simulator.log import SimulatedLog
from tests.e2e.e2e_support import PATIENCE_S, Service, options_for

PRECERT_SIGNING: Final = bytes.fromhex("060a2b06010401d679020404")  # the purpose of such certificates, RFC 6962 §3.1


def verifying(infos: list[LogInfo], mode: str, **ct_log: Any) -> dict[str, Any]:
    """A configuration that follows those logs from their beginning and knows their keys."""
    options = options_for(infos, start="beginning", verification=mode, **ct_log)
    keys = {info.url: base64.b64encode(info.key or b"").decode() for info in infos}
    for log in (*options["custom_logs"], *options["static_logs"]):
        log["key"] = keys[log["url"]]
    options["dedup"] = {"enabled": False}  # both protocols serve the same certificates
    return options


def evidence(service: Service) -> list[dict[str, Any]]:
    """The cases that are kept."""
    return [json.loads(path.read_text()) for path in sorted((service.directory / "evidence").glob("*.json"))]


def kinds_of(service: Service) -> set[tuple[str, str]]:
    """Of each case the log's name and what it is."""
    return {(case["log"]["name"], case["kind"]) for case in evidence(service)}


async def until_health(
    service: Service, what: Callable[[dict[str, dict[str, Any]]], bool]
) -> dict[str, dict[str, Any]]:
    """Wait until it holds of the logs as /health/deep shows them, by name; those."""
    async with asyncio.timeout(PATIENCE_S):
        while not what(logs := {log["name"]: log for log in (await service.health())["logs"]}):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return logs


async def until_at(service: Service, position: int, *names: str) -> dict[str, dict[str, Any]]:
    """Wait until those logs stand there."""
    return await until_health(service, lambda logs: all(logs[name]["position"] == position for name in names))


def exchanged(kind: LogKind) -> tuple[SimulatedLog, list[int]]:
    """A log of 300 entries, two of which have each other's precertificate beside their leaf, and which these are.

    One of the two is from a Precertificate Signing Certificate, as is a third one, which is right.
    """
    right = SimulatedLog("log", kinds={kind}, initial=300, seed=9)
    entries = [right.entry(index) for index in range(300)]
    precerts = [entry.index for entry in entries if entry.entry_type == PRECERT_ENTRY]
    signed = [index for index in precerts if entries[index].chain and PRECERT_SIGNING in entries[index].chain[0]]
    plain = next(index for index in precerts if index not in signed)
    assert len(signed) == 2
    bodies = [entry.extra_data for entry in entries]
    bodies[signed[0]], bodies[plain] = bodies[plain], bodies[signed[0]]
    raw = [RawEntry(entry.leaf_input, body) for entry, body in zip(entries, bodies, strict=True)]
    issuers = {der for entry in entries for der in entry.chain}
    return SimulatedLog("log", kinds={kind}, entries=raw, issuers=issuers), sorted([signed[0], plain])
