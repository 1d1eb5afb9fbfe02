"""What of a log's tree is proven: what hostile heads cost."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from certstream.client.proven_tree import ProvenTree
from certstream.ct.edge import TreeEdge
from certstream.ct.types import TreeHead
from certstream.errors import FetchError, InvalidProofError
from certstream.evidence import Case
from certstream.simulator.log import SimulatedLog


class NothingFits:
    """Gives proofs that lead nowhere, and counts them; under some heads none at all."""

    def __init__(self) -> None:
        self.asked = 0

    async def edge(self, head: TreeHead, size: int) -> TreeEdge:
        self.asked += 1
        raise InvalidProofError(f"{head.tree_size}, {size}")

    async def check_edge(self, head: TreeHead, edge: TreeEdge) -> None:
        self.asked += 1
        raise InvalidProofError(f"{head.tree_size}, {edge.size}")

    async def check_leaves(self, head: TreeHead, start: int, leaves: bytes) -> None:
        self.asked += 1
        raise FetchError(f"{head.tree_size}, {start}, {len(leaves)}", status="404")


async def test_a_log_that_signs_ever_another_root_of_one_size_is_asked_for_few_proofs() -> None:
    log = SimulatedLog("log", seed=1, initial=100)
    log.base_url = "http://log.example"
    prover, cases = NothingFits(), list[Case]()
    tree = ProvenTree(log.info("rfc6962"), prover, log.spki, cases.append, TreeEdge())
    root = log.head.root_hash
    for _ in range(100):
        tree.take(log.signed(replace(log.head, root_hash=root)))
        root = sha256(root).digest()
    assert tree.tree_size == 100
    assert (await tree.prove(0, log.tree.leaf(0))).error is not None
    assert prover.asked <= 2 * 17
