"""Brings a harness's request list into the shape that the fleet answers with the least work."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

MOST_CONTINUATIONS = 256
MOST_SAMPLES = 128

WishT = TypeVar("WishT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ContextGroup:
    """A context with its distinct continuations, and where in the request list each of them is asked for."""

    context: str
    continuations: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class PromptGroup(Generic[WishT]):
    """A prompt that is asked several times with the same wishes, and where in the request list.

    ``part`` counts the groups of one that is asked more often than a request may ask it, from 0.
    """

    prompt: str
    wishes: WishT
    places: tuple[int, ...]
    part: int = 0


def by_context(pairs: Iterable[tuple[str, str]]) -> list[ContextGroup]:
    """Group (context, continuation) pairs by their context, up to 256 continuations a group.

    Groups are ordered by context, so that those with the same beginning, such as examples, are asked one after another.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for place, (context, continuation) in enumerate(pairs):
        found.setdefault(context, {}).setdefault(continuation, []).append(place)
    groups = []
    for context in sorted(found):
        asked = list(found[context].items())
        for begin in range(0, len(asked), MOST_CONTINUATIONS):
            some = asked[begin : begin + MOST_CONTINUATIONS]
            places = tuple(tuple(each) for _, each in some)
            groups.append(ContextGroup(context, tuple(continuation for continuation, _ in some), places))
    return groups


def by_prompt(asked: Sequence[tuple[str, WishT]]) -> list[PromptGroup[WishT]]:
    """Group (prompt, wishes) that are asked several times, up to 128 a group; ordered by prompt as contexts are."""
    found: dict[tuple[str, WishT], list[int]] = {}
    for place, each in enumerate(asked):
        found.setdefault(each, []).append(place)
    return [
        PromptGroup(prompt, wishes, tuple(places[begin : begin + MOST_SAMPLES]), part)
        for (prompt, wishes), places in sorted(found.items(), key=lambda entry: entry[0][0])
        for part, begin in enumerate(range(0, len(places), MOST_SAMPLES))
    ]
