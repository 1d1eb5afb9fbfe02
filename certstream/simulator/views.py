"""What of a log's tree a request gets to see: the true one, or what faults make of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

from certstream.ct.merkle import MerkleTree, leaf_hash
from certstream.ct.types import HASH_BYTES, TreeHead
from certstream.simulator.content import altered
from certstream.simulator.faults import Fault, FaultKind
from certstream.simulator.log import SimulatedLog

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class View:
    """A tree, the head that is shown of it, and how many of its leaves are served."""

    tree: MerkleTree
    head: TreeHead
    tree_size: int


def view_of(log: SimulatedLog, faults: list[Fault]) -> View:
    """The published tree, or what the faults make of it; heads are signed, unless it is that which is wrong."""
    view = View(log.tree, log.head, log.tree_size)
    for fault in faults:
        view = _seen_through(fault, log, view)
    if any(fault.kind == FaultKind.WRONG_SIGNATURE for fault in faults):
        view = replace(view, head=log.with_wrong_signature(view.head))
    return view


def _seen_through(fault: Fault, log: SimulatedLog, view: View) -> View:
    head = view.head
    match fault.kind:
        case FaultKind.LAGGING:
            return replace(view, tree_size=max(view.tree_size - fault.entries, 0))
        case FaultKind.FORK:
            tree = _forked(log, fault.index or 0)
            return replace(view, tree=tree, head=log.signed(replace(head, root_hash=tree.root(head.tree_size))))
        case FaultKind.SMALLER_TREE:
            return replace(view, head=log.older_head(fault.entries))
        case FaultKind.OTHER_ROOT:
            return replace(view, head=log.signed(replace(head, root_hash=sha256(head.root_hash).digest())))
        case FaultKind.FUTURE_HEAD | FaultKind.OLD_HEAD:
            seconds = _DAY_S if fault.seconds is None else fault.seconds
            by_ms = int(seconds * 1000) * (1 if fault.kind == FaultKind.FUTURE_HEAD else -1)
            return replace(view, head=log.signed(replace(head, timestamp_ms=max(head.timestamp_ms + by_ms, 0))))
    return view


def _forked(log: SimulatedLog, index: int) -> MerkleTree:
    """The tree whose leaf `index` is another, as long as the log's own."""
    fork = log.forks.setdefault(index, MerkleTree())
    start, stop = len(fork), len(log.tree)
    leaves = bytearray(b"".join(log.tree.leaf(at) for at in range(start, stop)))
    if start <= index < stop:
        at = (index - start) * HASH_BYTES
        leaves[at : at + HASH_BYTES] = leaf_hash(altered(log.entry(index).leaf_input, FaultKind.FORK))
    fork.append(bytes(leaves))
    return fork
