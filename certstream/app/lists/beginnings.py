"""Where the logs of the lists begin: at their head with the first look at a list, at 0 where they appear later."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import pybase64

from certstream.ct.log_choice import ChosenLog
from certstream.ct.log_list import MAX_LISTED_LOGS
from certstream.state import StateStore

Beginning: TypeAlias = Literal["head", "beginning"]

MEMBER: Final = "log_lists"


class Beginnings:
    """Decides it once for each log, and keeps that in the state file, before the log has a position there.

    Kept is {"log_lists": {"looked_at": [names of lists], "wanted": text, "starts": {log id: "head" or "beginning"}}};
    what stands there and is not of that shape counts as nothing known. Bounded: of logs that are not
    chosen any more, the last MAX_LISTED_LOGS are kept.
    """

    def __init__(self, state: StateStore) -> None:
        self._state = state

    def of(self, chosen: Iterable[ChosenLog], lists: Collection[str], wanted: str) -> Mapping[bytes, Beginning]:
        """Where each of the chosen logs begins, by log id.

        `lists` are the names of those that could be had, `wanted` says in one text what is wanted of them: a log that
        comes by another wish, or with a list that was not looked at before, did not appear. It is only looked at now.
        """
        known = _Known(self._state.member(MEMBER))
        starts: dict[str, Beginning] = {}
        for each in chosen:
            log_id = pybase64.b64encode(each.log.log_id).decode()
            appeared = known.wanted == wanted and each.source in known.looked_at
            starts[log_id] = known.starts.pop(log_id, "beginning" if appeared else "head")
        others = list(known.starts.items())[-MAX_LISTED_LOGS:]
        looked_at = sorted({*known.looked_at, *lists})
        member = {"looked_at": looked_at, "wanted": wanted, "starts": {**dict(others), **starts}}
        self._state.set_member(MEMBER, member)
        return {pybase64.b64decode(log_id): start for log_id, start in starts.items()}


class _Known:
    """What the state file says, as far as it can be read."""

    def __init__(self, member: Any) -> None:
        fields = member if isinstance(member, dict) else {}
        looked_at, starts = fields.get("looked_at"), fields.get("starts")
        self.wanted = fields.get("wanted")
        self.looked_at = {name for name in looked_at if isinstance(name, str)} if isinstance(looked_at, list) else set()
        self.starts: dict[str, Beginning] = {
            log_id: start
            for log_id, start in (starts.items() if isinstance(starts, dict) else ())
            if start in ("head", "beginning")
        }
