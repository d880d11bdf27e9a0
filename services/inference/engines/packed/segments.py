"""The new tokens of one pass: sequences side by side in one row, and which of them sees which."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from services.inference.engines.packed.prefix_cache import Block

LONG_STEM_TOKENS: Final = 256
"""From here on a stem attends by itself with a causal kernel; shorter ones are padded into one product."""
_PADDING: Final = -1
_GROUP_GROWTH: Final = 1.5
"""Segments are padded together as long as the longest exceeds the shortest by no more than this, or by a few tokens."""
_GROUP_SLACK_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """New tokens of one sequence: a stem behind cached blocks, and branches that each follow the whole stem.

    Attributes:
        path: blocks of everything before the stem, in order.
        stem: token ids; may be empty only if there are branches and a path.
        branches: token ids, each non-empty.
    """

    path: Sequence[Block]
    stem: Sequence[int]
    branches: Sequence[Sequence[int]] = ()

    @property
    def num_tokens(self) -> int:
        """All new tokens."""
        return len(self.stem) + sum(map(len, self.branches))


@dataclass(frozen=True, slots=True)
class PaddedGroup:
    """Short runs of the row that attend to themselves together.

    Attributes:
        index: positions in the row, [runs, longest]; padding repeats the run's last position.
        is_token: run and place in it of everything that is no padding, two index tensors.
        where: their positions in the row, in the same order.
        mask: float [runs, 1, longest, longest], added to the scores; None if plain causality says it all.
    """

    index: torch.Tensor
    is_token: tuple[torch.Tensor, torch.Tensor]
    where: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Layout:
    """One row of packed segments.

    Attributes:
        token_ids: of all segments, int64 [tokens].
        positions: of every token in its own sequence, int64 [tokens].
        starts: where every segment begins.
        groups: short runs that attend to themselves.
        long_stems: slices that attend to themselves causally.
        cross: (branch slice, stem slice): branches that attend to a long stem.
        shared: (slice, block): tokens that attend to a cached block.
        num_padded_tokens: padding inside ``groups``.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    starts: Sequence[int]
    groups: Sequence[PaddedGroup]
    long_stems: Sequence[slice]
    cross: Sequence[tuple[slice, slice]]
    shared: Sequence[tuple[slice, Block]]
    num_padded_tokens: int


@dataclass(frozen=True, slots=True)
class _Run:
    """A short run of the row: its first position, and which branch every token belongs to (0 is the stem)."""

    start: int
    branch_of: Sequence[int]


def lay_out(segments: Sequence[Segment], device: torch.device) -> Layout:
    """Put segments side by side; those with a common path should be neighbours."""
    ids: list[int] = []
    positions: list[int] = []
    starts: list[int] = []
    runs: list[_Run] = []
    long_stems: list[slice] = []
    cross: list[tuple[slice, slice]] = []
    for segment in segments:
        start, stem = len(ids), len(segment.stem)
        starts.append(start)
        before = sum(block.num_tokens for block in segment.path)
        ids += segment.stem
        positions += range(before, before + stem)
        for branch in segment.branches:
            ids += branch
            positions += range(before + stem, before + stem + len(branch))
        branch_of = [number for number, branch in enumerate(segment.branches, 1) for _ in branch]
        if stem <= LONG_STEM_TOKENS:
            runs.append(_Run(start, [0] * stem + branch_of))
            continue
        long_stems.append(slice(start, start + stem))
        if branch_of:
            runs.append(_Run(start + stem, branch_of))
            cross.append((slice(start + stem, len(ids)), long_stems[-1]))
    groups = [_pad(group, device) for group in _similar(runs)]
    return Layout(
        token_ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        starts=starts,
        groups=groups,
        long_stems=long_stems,
        cross=cross,
        shared=list(_shared_blocks(segments, starts, len(ids))),
        num_padded_tokens=sum(group.index.numel() for group in groups) - sum(len(run.branch_of) for run in runs),
    )


def _similar(runs: Sequence[_Run]) -> Iterator[Sequence[_Run]]:
    """Sort by length and cut where padding would become expensive."""
    group: list[_Run] = []
    for run in sorted(runs, key=lambda each: len(each.branch_of)):
        if group:
            shortest = len(group[0].branch_of)
            if len(run.branch_of) > max(shortest * _GROUP_GROWTH, shortest + _GROUP_SLACK_TOKENS):
                yield group
                group = []
        group.append(run)
    if group:
        yield group


def _pad(runs: Sequence[_Run], device: torch.device) -> PaddedGroup:
    longest = max(len(run.branch_of) for run in runs)
    lengths = torch.tensor([[len(run.branch_of)] for run in runs], device=device)
    time = torch.arange(longest, device=device)
    starts = torch.tensor([[run.start] for run in runs], device=device)
    index = starts + torch.minimum(time, lengths - 1)
    mask = None
    if any(run.branch_of[-1] for run in runs):
        branch_of = torch.tensor(
            [list(run.branch_of) + [_PADDING] * (longest - len(run.branch_of)) for run in runs], device=device
        )
        ours, theirs = branch_of.unsqueeze(2), branch_of.unsqueeze(1)
        sees = (time.unsqueeze(1) >= time) & ((theirs == 0) | (theirs == ours))
        mask = torch.where(sees, 0.0, float("-inf")).unsqueeze(1)
    # Found once rather than in every layer, where a GPU would be waited for.
    run, place = (time < lengths).nonzero(as_tuple=True)
    return PaddedGroup(index, (run, place), index[run, place], mask)


def _shared_blocks(
    segments: Sequence[Segment], starts: Sequence[int], num_tokens: int
) -> Iterator[tuple[slice, Block]]:
    """Find the runs of neighbouring segments that share a block."""
    ends = [*starts[1:], num_tokens]
    for depth in range(max((len(segment.path) for segment in segments), default=0)):
        open_block: Block | None = None
        opened = 0
        for number, segment in enumerate(segments):
            block = segment.path[depth] if depth < len(segment.path) else None
            if block is not open_block:
                if open_block is not None:
                    yield slice(opened, starts[number]), open_block
                open_block, opened = block, starts[number]
        if open_block is not None:
            yield slice(opened, ends[-1]), open_block
