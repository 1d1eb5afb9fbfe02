"""Up to where a log of the lists is read: all of it, to its final tree head, or to the last head before it is left."""

from __future__ import annotations

from collections.abc import Callable

from certstream.app.settings import FollowedLog
from certstream.client.base import LogClient
from certstream.client.bounded import BoundedClient, FinalRoot
from certstream.client.proofs import Prover
from certstream.client.verified import VerifiedClient
from certstream.evidence import Case
from certstream.state import LogPosition


def bounded(
    client: LogClient,
    followed: FollowedLog,
    position: LogPosition | None,
    prover: Callable[[], Prover],
    evidence: Callable[[Case], None],
) -> LogClient:
    """The client of that log, bounded where it must be; `position` is what is known of it, None where nothing is.

    Where the log is verified, what does not fit its final tree head goes to `evidence`.
    """
    final = followed.final
    stops = [] if final is None else [final.tree_size]
    if followed.leaving:
        stops.append(0 if position is None else position.tree_size)
    if not stops:
        return client
    root = None
    if final is not None and min(stops) == final.tree_size and isinstance(client, VerifiedClient):
        enforce = followed.verification == "enforce"
        root = FinalRoot(final.root_hash, client.edge_at, lambda: client.anchor, prover(), evidence, enforce)
    return BoundedClient(client, min(stops), root, 0 if position is None else position.current_index)
