"""Up to where a log of the lists is read: all of it, to its final tree head, or to the last head before it is left."""

from __future__ import annotations

from collections.abc import Callable

from certstream.app.settings import FollowedLog
from certstream.client.base import LogClient
from certstream.client.bounded import BoundedClient, FinalRoot
from certstream.client.verified import VerifiedClient
from certstream.evidence import Case


def bounded(client: LogClient, followed: FollowedLog, tree_size: int, evidence: Callable[[Case], None]) -> LogClient:
    """The client of that log, bounded where it must be; `tree_size` is that of its last head, 0 where none was seen.

    Where the log is verified, what does not fit its final tree head goes to `evidence`.
    """
    final = followed.final
    stops = [] if final is None else [final.tree_size]
    if followed.leaving:
        stops.append(tree_size)
    if not stops:
        return client
    root = None
    if final is not None and min(stops) == final.tree_size and isinstance(client, VerifiedClient):
        root = FinalRoot(final.root_hash, client.edge_at, evidence, enforce=followed.verification == "enforce")
    return BoundedClient(client, min(stops), root)
