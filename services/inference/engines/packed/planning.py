"""Decides what one pass computes, so that a beginning that waiting contexts share is computed once.

Contexts that begin alike, beyond what is cached, first get that beginning computed as a piece of its own; whoever
shares it then continues behind it. A context too long for one pass is computed in several pieces the same way.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.inference.engines.context_group import ContextGroup, Member
from services.inference.engines.packed.prefix_cache import MIN_SHARED_TOKENS, Block, PrefixCache, join_blocks
from services.inference.engines.packed.segments import Segment

_ROOT: Final = 0


@dataclass(slots=True, eq=False)
class PendingContext:
    """A context on its way: what of it is computed already, and which members are left."""

    group: ContextGroup
    path: list[Block]
    matched: int
    members: deque[Member] = field(default_factory=deque)

    @property
    def stem(self) -> Sequence[int]:
        """Tokens that are not computed yet."""
        return self.group.context[self.matched :]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A segment of a pass.

    Attributes:
        segment: what is computed.
        owners: the contexts that it is for; more than one only for a shared beginning.
        members: continuations whose scores it gives.
        beginning: what the segment is a part of, if its owners continue behind it; nothing is read off then.
    """

    segment: Segment
    owners: Sequence[PendingContext]
    members: Sequence[Member] = ()
    beginning: "Beginning | None" = None


@dataclass(slots=True, eq=False)
class Beginning:
    """Tokens that contexts have in common, computed in one piece or in several.

    Attributes:
        owners: the contexts.
        start: position of its first token.
        end: position behind its last.
        blocks: what is computed of it so far.
    """

    owners: list[PendingContext]
    start: int
    end: int
    blocks: list[Block] = field(default_factory=list)


class Plan:
    """The work of some contexts, handed out pass by pass.

    Args:
        groups: what waits.
        cache: what is computed already; what this plan computes is added to it.
    """

    def __init__(self, groups: Iterable[ContextGroup], cache: PrefixCache) -> None:
        self._cache = cache
        self._beginnings: deque[Beginning] = deque()
        self._ready: deque[PendingContext] = deque()
        self._sort_in([_pending(group, cache) for group in groups])

    def take(self, max_tokens: int, max_logits: int) -> list[Piece]:
        """Return the pieces of the next pass, at least one as long as anything is left.

        Args:
            max_tokens: bound on new tokens; a single continuation may exceed it.
            max_logits: bound on positions whose logits are read.
        """
        self._drop_abandoned()
        pieces: list[Piece] = []
        room = max_tokens
        while self._beginnings and room >= min(MIN_SHARED_TOKENS, max_tokens):
            piece = self._take_beginning(room)
            pieces.append(piece)
            room -= piece.segment.num_tokens
        logits = max_logits
        while self._ready:
            pending = self._ready[0]
            branches = sum(len(ids) - 1 for _, ids in pending.members)
            tokens, read = len(pending.stem) + branches, 1 + branches
            if tokens > room or read > logits:
                break
            self._ready.popleft()
            pieces.append(_whole(pending))
            room, logits = room - tokens, logits - read
        if not pieces and self._ready:
            pieces.append(self._take_part(self._ready.popleft(), max_tokens, max_logits))
        return pieces

    def go_on(self, beginning: Beginning, block: Block) -> None:
        """Let the owners of a beginning, of which a piece was computed, go on behind it."""
        beginning.blocks.append(block)
        for number, owner in enumerate(beginning.owners):
            owner.path.append(block)
            owner.matched += block.num_tokens
            if number:
                owner.group.num_cached_tokens += block.num_tokens
        first = beginning.owners[0]
        if first.matched < beginning.end:
            self._beginnings.appendleft(beginning)
            return
        # One block in place of its pieces: whoever attends to it later does so in one product.
        whole = join_blocks(beginning.blocks)
        for owner in beginning.owners:
            owner.path[len(owner.path) - len(beginning.blocks) :] = [whole]
        self._cache.insert(first.group.context[: beginning.end], beginning.start, whole)
        self._sort_in(beginning.owners)

    def _drop_abandoned(self) -> None:
        self._ready = deque(each for each in self._ready if not each.group.was_cancelled())
        for beginning in self._beginnings:
            beginning.owners = [each for each in beginning.owners if not each.group.was_cancelled()]
        self._beginnings = deque(each for each in self._beginnings if each.owners)

    def _take_beginning(self, room: int) -> Piece:
        beginning = self._beginnings.popleft()
        owner = beginning.owners[0]
        tokens = owner.group.context[owner.matched : min(beginning.end, owner.matched + room)]
        return Piece(Segment(tuple(owner.path), tokens), beginning.owners, beginning=beginning)

    def _take_part(self, pending: PendingContext, max_tokens: int, max_logits: int) -> Piece:
        """Cut a context that exceeds a pass alone: first its beginning, then a few members at a time."""
        if len(pending.stem) > 1:
            # Computed for itself, because every further part would compute it again.
            whole = Beginning([pending], pending.matched, len(pending.group.context) - 1)
            self._beginnings.append(whole)
            return self._take_beginning(max_tokens)
        taken: list[Member] = []
        room = min(max_tokens, max_logits) - 1
        while pending.members and (not taken or len(pending.members[0][1]) - 1 <= room):
            member = pending.members.popleft()
            room -= len(member[1]) - 1
            taken.append(member)
        if pending.members:
            self._ready.appendleft(pending)
        return _leaf(pending, taken)

    def _sort_in(self, contexts: Sequence[PendingContext]) -> None:
        """Find contexts that go on alike; the others are ready."""
        alike: dict[tuple[int, tuple[int, ...]], list[PendingContext]] = {}
        for context in contexts:
            place = id(context.path[-1]) if context.path else _ROOT
            # The last token of a context is never shared, because its logits are read.
            next_tokens = tuple(context.group.context[context.matched : -1][:MIN_SHARED_TOKENS])
            alike.setdefault((place, next_tokens), []).append(context)
        ready: list[PendingContext] = []
        for (_, next_tokens), owners in alike.items():
            if len(owners) > 1 and len(next_tokens) == MIN_SHARED_TOKENS:
                start = owners[0].matched
                self._beginnings.append(Beginning(owners, start, start + _common_length(owners)))
            else:
                ready += owners
        # Neighbours in a pass that follow the same blocks attend to them together.
        merged = [*self._ready, *ready]
        merged.sort(key=lambda each: (tuple(map(id, each.path)), len(each.stem)))
        self._ready = deque(merged)


def _pending(group: ContextGroup, cache: PrefixCache) -> PendingContext:
    path, matched = cache.match(group.context, limit=len(group.context) - 1)
    group.num_cached_tokens += matched
    return PendingContext(group, path, matched, deque(group.members))


def _whole(pending: PendingContext) -> Piece:
    members = tuple(pending.members)
    pending.members.clear()
    return _leaf(pending, members)


def _leaf(pending: PendingContext, members: Sequence[Member]) -> Piece:
    branches = [ids[:-1] for _, ids in members if len(ids) > 1]
    return Piece(Segment(tuple(pending.path), pending.stem, branches), (pending,), members)


def _common_length(owners: Sequence[PendingContext]) -> int:
    """Return how many of the next tokens all owners share, always leaving each its last token."""
    rest = [tuple(owner.group.context[owner.matched : -1]) for owner in owners]
    # Between the lexicographically first and last lies everything else.
    first, last = min(rest), max(rest)
    limit = min(map(len, rest))
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
