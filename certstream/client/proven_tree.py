"""What of a log's tree is proven, and the signed heads that it is proven under.

A head whose signature holds is a candidate, no more: entries are proven under it where their leaf hashes, added to the
edge of what was proven before, lead to its root, or where the log proves that its tree begins with that edge. What was
proven once is what every later head has to begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from certstream.client.proofs import Prover
from certstream.client.range_proofs import RangeChecker, Unproven
from certstream.ct.edge import TreeEdge
from certstream.ct.signatures import verify_tree_head
from certstream.ct.types import HASH_BYTES, LogInfo, TreeHead
from certstream.errors import (
    FetchError,
    InvalidProofError,
    InvalidSignatureError,
    LogMisbehaviourError,
    RateLimitedError,
)
from certstream.evidence import Case, CaseKind, inconsistent

_HEADS: Final = 16  # remembered, and the largest; frontends of a log lag a few heads behind each other
_NOTED: Final = 64  # cases remembered: the same one under another head is no other
_MOST_CASES: Final = 3  # of ranges of wrong entries that were read together


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of entries that were to be proven."""

    unproven: Sequence[Unproven] = ()  # ascending; all others are proven
    error: LogMisbehaviourError | None = None  # where there are such


class ProvenTree:
    """The proven beginning of one log's tree. Belongs to one task at a time, but for `take` and `matches`."""

    def __init__(
        self,
        log: LogInfo,
        prover: Prover,
        key: bytes,
        note: Callable[[Case], None],
        edge: TreeEdge | None = None,
        anchor: TreeEdge | None = None,
    ) -> None:
        """`key`: the log's SubjectPublicKeyInfo. `edge`: that of where reading goes on, if it is known and proven.

        `anchor`: the longest one that was proven before, where that is another.
        """
        self._log = log
        self._prover = prover
        self._ranges = RangeChecker(prover, log)
        self._key = key
        self._note_case = note
        self.edge = edge  # proven; behind what was proven last. None: it has to be taken from the log
        self._anchor = anchor or edge  # the longest one that is proven
        self._reference: TreeHead | None = None  # the head whose root was that of the anchor
        self._heads: dict[tuple[int, bytes], TreeHead] = {}  # candidates; those that came last go last
        self._signed_size = 0
        self._noted: dict[object, Case] = {}

    @property
    def tree_size(self) -> int:
        """Of the largest head that is a candidate."""
        return max((size for size, _ in self._heads), default=0)

    @property
    def signed_size(self) -> int:
        """Of the largest head that the log signed, whatever became of it."""
        return self._signed_size

    @property
    def anchor(self) -> TreeEdge | None:
        """The longest edge that is proven: what every head has to begin with."""
        return self._anchor

    def take(self, head: TreeHead) -> None:
        """Make a head a candidate.

        Raises InvalidSignatureError where its signature does not hold, LogMisbehaviourError where it has another root
        than what is proven has at its size.
        """
        place = head.tree_size, head.root_hash
        if self._heads.get(place) != head:
            self._verify(head)
        self._signed_size = max(self._signed_size, head.tree_size)
        self._compare(head)
        self._heads.pop(place, None)
        self._heads[place] = head
        self._forget_heads()

    def _compare(self, head: TreeHead) -> None:
        error = f"{self._log.name}: another root than before for a tree of {head.tree_size} entries"
        anchor, size = self._anchor, head.tree_size
        is_other = anchor is not None and anchor.size == size and anchor.root() != head.root_hash
        seen = [*self._heads.values(), *([] if self._reference is None else [self._reference])]
        rivals = [each for each in seen if each.tree_size == size and each.root_hash != head.root_hash]
        if rivals and (size, head.root_hash) not in self._heads:
            self._note("two_roots", error, [rivals[-1], head])
        elif anchor is not None and is_other:
            self._note("two_roots", error, [head], hashes={"root_proven_before": anchor.root()})
        if is_other:
            raise LogMisbehaviourError(error)

    def _verify(self, head: TreeHead) -> None:
        try:
            verify_tree_head(head, self._key)
        except InvalidSignatureError as exc:
            error = f"{self._log.name}: {exc}"
            self._note("signature", error, [head])
            raise InvalidSignatureError(error) from exc

    def _forget_heads(self) -> None:
        largest = max(reversed(self._heads), key=lambda place: place[0])  # of several that large the newest
        for place in [place for place in self._heads if place != largest][: max(0, len(self._heads) - _HEADS)]:
            del self._heads[place]

    def _covering(self, size: int) -> list[TreeHead]:
        """Candidates of at least that size, and of what is proven: the smallest first, of one size the newest."""
        least = max(size, 0 if self._anchor is None else self._anchor.size)
        return sorted((head for head in reversed(self._heads.values()) if head.tree_size >= least), key=_tree_size)

    def matches(self, edge: TreeEdge) -> bool:
        """Whether an edge, that continues the proven one, has the root of a candidate; it is proven then."""
        head = self._heads.get((edge.size, edge.root())) if edge.size else None
        if head is None or self._is_behind():
            return False
        self._proved(edge, head)
        return True

    def _is_behind(self) -> bool:
        """Whether more was proven than what is read on from: that has to be in the same tree."""
        return self._anchor is not None and (self.edge is None or self.edge.size < self._anchor.size)

    async def begin(self, start: int) -> TreeEdge:
        """Return the edge of the first `start` entries: the one at hand, or one that the log proves.

        Raises FetchError, and LogMisbehaviourError where what the log gives does not fit.
        """
        failure: LogMisbehaviourError | None = None
        for head in self._covering(start):
            try:
                return await self._edge_under(head, start)
            except LogMisbehaviourError as exc:
                failure = failure or exc
            except FetchError as exc:
                self._set_aside(head, start, exc)
                raise
        raise failure or FetchError(f"{self._log.name}: no head covers {start} entries", status="body")

    async def prove(self, start: int, leaves: bytes, after: TreeEdge | None = None) -> Proof:
        """Prove entries by their leaf hashes, 32 bytes each, from index `start` on.

        `edge` is then the one behind them, or behind those before the first that is not proven. `after`: the one behind
        them, if it was computed already. Raises FetchError where the log gives no proof.
        """
        stop = start + len(leaves) // HASH_BYTES
        unfit: list[tuple[TreeHead, InvalidProofError]] = []
        failures: list[LogMisbehaviourError] = []
        for head in self._covering(stop):
            try:
                wrong = await self._prove_under(head, start, leaves, after)
            except LogMisbehaviourError as exc:
                failures.append(exc)
            except FetchError as exc:
                self._set_aside(head, stop, exc)
                if not unfit:
                    raise
                break
            else:
                if wrong is None:
                    return Proof()
                unfit.append((head, wrong))
        for head, wrong in unfit:
            try:
                return await self._tell_apart(head, leaves, wrong)
            except LogMisbehaviourError as exc:
                failures.append(exc)
        if not failures:
            raise FetchError(f"{self._log.name}: no head covers {stop} entries", status="body")
        return Proof([Unproven(start, stop, str(failures[0]))], failures[0])

    def _set_aside(self, head: TreeHead, stop: int, error: FetchError) -> None:
        """Try others before a head of which the log gives no proof, until it comes again."""
        if not isinstance(error, RateLimitedError) and len(self._covering(stop)) > 1:
            self._heads.pop((head.tree_size, head.root_hash), None)

    async def _edge_under(self, head: TreeHead, start: int) -> TreeEdge:
        is_there = self.edge is not None and self.edge.size == start
        anchor = self._anchor
        if anchor is not None and (self._is_behind() or not is_there):
            await self._check_begins(head, anchor)
        if self.edge is not None and is_there:
            return self.edge
        try:
            self.edge = await self._prover.edge(head, start)
        except InvalidProofError as exc:
            error = f"{self._log.name}: the beginning at {start} is not proven under a head of {head.tree_size}: {exc}"
            raise self._failed("wrong_root", head, error, start, start) from exc
        self._anchor = self._anchor or self.edge
        return self.edge

    async def _prove_under(
        self, head: TreeHead, start: int, leaves: bytes, after: TreeEdge | None
    ) -> InvalidProofError | None:
        """What is wrong under that head, None where all is proven.

        Raises FetchError; LogMisbehaviourError where the head does not begin with what was proven before.
        """
        before = await self._edge_under(head, start)
        after = after or before.extended(leaves)
        try:
            await self._check(head, after)
        except InvalidProofError as exc:
            return exc
        self._proved(after, head)
        return None

    async def _check(self, head: TreeHead, edge: TreeEdge) -> None:
        if edge.size < head.tree_size:
            await self._prover.check_edge(head, edge)
        elif edge.root() != head.root_hash:
            raise InvalidProofError(f"another root than the head's of {head.tree_size} entries")

    async def _check_begins(self, head: TreeHead, edge: TreeEdge) -> None:
        """Check that a head begins with what was proven before; it is no candidate else, until it comes again."""
        try:
            await self._check(head, edge)
        except InvalidProofError as exc:
            self._heads.pop((head.tree_size, head.root_hash), None)
            case = inconsistent(self._log, self._beside_reference(head), edge.size, edge.root(), exc)
            self._bring(case.key(), case)
            raise InvalidProofError(case.error) from exc

    async def _tell_apart(self, head: TreeHead, leaves: bytes, cause: InvalidProofError) -> Proof:
        """Whether the head does not fit, or which of the entries behind `edge`."""
        before = self.edge
        assert before is not None
        after = before.extended(leaves)
        try:
            await self._check_begins(head, before)
            unproven = await self._ranges.check_leaves(head, before.size, leaves)
        except FetchError:  # it is known that something is wrong, and only later what
            unproven = [Unproven(before.size, after.size, str(cause))]
        if not unproven:  # each stands in a tree that begins with what was proven: the first proof was wrong
            self._proved(after, None)
            return Proof()
        whole = (unproven[0].start, unproven[0].stop) == (before.size, after.size)
        errors = [
            self._failed(
                "wrong_root" if whole and after.size - before.size > 1 else "wrong_leaf",
                head,
                f"{each.error} (entries [{each.start}, {each.stop}) under a head of {head.tree_size})",
                each.start,
                each.stop,
                _hashes_of(each, before, leaves),
            )
            for each in unproven[:_MOST_CASES]
        ]
        self._proved(before.extended(leaves[: (unproven[0].start - before.size) * HASH_BYTES]), None)
        return Proof(unproven, errors[0])

    def _proved(self, edge: TreeEdge, head: TreeHead | None) -> None:
        self.edge = edge
        if self._anchor is None or edge.size >= self._anchor.size:
            self._anchor = edge
            is_its_root = head is not None and head.tree_size == edge.size
            self._reference = head if is_its_root else self._reference

    def _failed(
        self,
        kind: CaseKind,
        head: TreeHead,
        error: str,
        start: int,
        stop: int,
        hashes: dict[str, bytes] | None = None,
    ) -> LogMisbehaviourError:
        heads = [head] if kind == "wrong_leaf" else self._beside_reference(head)
        self._note(kind, error, heads, start, stop, hashes or {})
        return InvalidProofError(error)

    def _beside_reference(self, head: TreeHead) -> list[TreeHead]:
        return [head] if self._reference is None else [self._reference, head]

    def _note(
        self,
        kind: CaseKind,
        error: str,
        heads: list[TreeHead],
        start: int | None = None,
        stop: int | None = None,
        hashes: dict[str, bytes] | None = None,
    ) -> None:
        case = Case(kind, self._log, error, heads, start, stop, hashes or {})
        of_leaf = kind == "wrong_leaf"  # the same under each head
        known = (kind, start, stop, *(hashes or {}).items()) if of_leaf else case.key()
        self._bring(known, case)

    def _bring(self, known: object, case: Case) -> None:
        self._note_case(self._noted.setdefault(known, case))
        while len(self._noted) > _NOTED:
            del self._noted[next(iter(self._noted))]


def _tree_size(head: TreeHead) -> int:
    return head.tree_size


def _hashes_of(wrong: Unproven, before: TreeEdge, leaves: bytes) -> dict[str, bytes]:
    """What was computed of what was read: the leaf hash of one entry, of several the root up to their end."""
    first, last = wrong.start - before.size, wrong.stop - before.size
    if last - first == 1:
        return {"leaf_hash_of_what_was_read": leaves[first * HASH_BYTES : last * HASH_BYTES]}
    return {"root_of_what_was_read": before.extended(leaves[: last * HASH_BYTES]).root()}
