"""The logs that no list has any more and that are read to their last head: known over a restart."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import pybase64

from certstream.app.settings import MMD_S, FollowedLog
from certstream.config.logs import Verification
from certstream.ct.log_list import MAX_LISTED_LOGS, FinalTreeHead
from certstream.ct.signatures import load_key
from certstream.ct.types import HASH_BYTES, MAX_TREE_SIZE, LogInfo
from certstream.ct.urls import is_log_url, url_identity
from certstream.errors import ConfigError
from certstream.state import LogPosition, StateStore

MEMBER: Final = "leaving_logs"
_TEXTS: Final = ("name", "url", "kind", "operator", "key")


class Departures:
    """Keeps them in the state file, whose positions say how far each is.

    Kept is {"leaving_logs": {"wanted": text, "logs": [{"name", "url", "kind", "operator", "key", "origin", "mmd_s",
    "final"}]}}, where `final` is {"tree_size": n, "root_hash": base64} of a log that takes no more entries, null of
    others; what stands there and is not of that shape counts as no log. Bounded: the first MAX_LISTED_LOGS are kept.
    """

    def __init__(self, state: StateStore) -> None:
        self._state = state

    def keep(self, logs: Collection[FollowedLog], wanted: str) -> None:
        """Let these be all of them; `wanted` says in one text what is wanted of the lists."""
        if logs or self._state.member(MEMBER) is not None:
            kept = [_entry(log) for log in logs if log.info.key is not None][:MAX_LISTED_LOGS]
            self._state.set_member(MEMBER, {"wanted": wanted, "logs": kept})

    def known(self, wanted: str, verification: Verification) -> dict[bytes, FollowedLog]:
        """Those that are kept, by log id; none where something else is wanted of the lists than then."""
        member = self._state.member(MEMBER)
        if not isinstance(member, dict) or member.get("wanted") != wanted or not isinstance(member.get("logs"), list):
            return {}
        return dict(_read(member["logs"], verification))


def others(logs: Mapping[bytes, FollowedLog], followed: Collection[LogInfo]) -> dict[bytes, FollowedLog]:
    """Those of the logs, by log id, that are none of the followed ones, by id or URL."""
    ids = {info.log_id for info in followed}
    urls = {url_identity(info.url) for info in followed}  # a log whose key is not known has no id
    return {log_id: log for log_id, log in logs.items() if log_id not in ids and url_identity(log.info.url) not in urls}


def is_read(position: LogPosition | None) -> bool:
    """Whether a log that stands there is read to its last head."""
    return position is None or position.current_index >= position.tree_size


def _entry(log: FollowedLog) -> dict[str, Any]:
    info = log.info
    return {
        "name": info.name,
        "url": info.url,
        "kind": info.kind,
        "operator": info.operator,
        "key": pybase64.b64encode(info.key or b"").decode(),
        "origin": info.origin,
        "mmd_s": log.mmd_s,
        "final": None if log.final is None else _final_entry(log.final),
    }


def _final_entry(final: FinalTreeHead) -> dict[str, Any]:
    return {"tree_size": final.tree_size, "root_hash": pybase64.b64encode(final.root_hash).decode()}


def _final(entry: Any) -> FinalTreeHead | None:
    """Raises ValueError for what `_final_entry` does not give."""
    if entry is None:
        return None
    size, root_hash = (entry.get("tree_size"), entry.get("root_hash")) if isinstance(entry, dict) else (None, None)
    if type(size) is not int or not 0 <= size <= MAX_TREE_SIZE or not isinstance(root_hash, str):
        raise ValueError("no final tree head")
    root = pybase64.b64decode(root_hash, validate=True)
    if len(root) != HASH_BYTES:
        raise ValueError("no root hash")
    return FinalTreeHead(size, root)


def _read(entries: list[Any], verification: Verification) -> Iterator[tuple[bytes, FollowedLog]]:
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in _TEXTS):
            continue
        try:
            key = pybase64.b64decode(entry["key"], validate=True)
            load_key(key)
            final = _final(entry.get("final"))
        except (ValueError, ConfigError):
            continue
        kind, origin, mmd_s = entry["kind"], entry.get("origin"), entry.get("mmd_s")
        if kind not in ("rfc6962", "static") or not isinstance(origin, str | None) or not is_log_url(entry["url"]):
            continue
        log_id = hashlib.sha256(key).digest()
        info = LogInfo(entry["name"], entry["url"], kind, entry["operator"], key, log_id, origin)
        mmd_s = mmd_s if type(mmd_s) is int and mmd_s > 0 else MMD_S
        yield (
            log_id,
            FollowedLog(info, start="beginning", verification=verification, final=final, mmd_s=mmd_s, leaving=True),
        )
