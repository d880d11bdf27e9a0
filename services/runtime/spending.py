"""Books what is computed for a call to whoever makes it: when it is known, and not when an answer arrives.

Whoever computes says what it cost, once, with ``spend``. Answers tell their callers what they cost, too, but a caller
may leave before it has its answer, and other answers repeat what was spent long ago.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Final, TypeAlias

from services.runtime.error_types import DeadlineExceededError, FleetError
from services.runtime.usage import NO_USAGE, Usage, usage_of

Book: TypeAlias = Callable[[Usage], None]

# A context variable follows a call into the tasks that it starts, also into those that outlive it.
_account: ContextVar[Book | None] = ContextVar("evalfleet_account", default=None)


def open_account(book: Book) -> None:
    """Have ``book`` told of everything that is spent until the running task ends, and in the tasks that it starts."""
    _account.set(book)


def spend(usage: Usage) -> None:
    """Book a cost to the caller of the call being handled, if somebody keeps its account."""
    book = _account.get()
    if book is not None and usage is not NO_USAGE:
        book(usage)


_MOST_CHARACTERS_A_TOKEN: Final = 6


def least_tokens(characters: int) -> int:
    """Return how few tokens a text has: of nearly any text tokenizers make more, one of some 4 characters.

    Too low rather than too high, so that whoever leaves before it is known owes no more than whoever waits.
    """
    return characters // _MOST_CHARACTERS_A_TOKEN


class Asked(AbstractContextManager["Asked"]):
    """Books what a model computes inside the ``with`` block, whatever becomes of the request.

    Its answer says what that is, or the error that the model's service failed with. Of a request that is given up, or
    is late, the least is booked that it cost; of one that was refused, nothing.

    Args:
        least: see above.
        priced: puts the price on a cost that has none.
    """

    __slots__ = ("_priced", "_usage")

    def __init__(self, least: Usage, priced: Callable[[Usage], Usage] | None = None) -> None:
        self._usage = least
        self._priced = priced

    def cost(self, usage: Usage) -> None:
        """Note what the answer says that it cost."""
        self._usage = usage

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        usage = self._usage
        if isinstance(error, FleetError):
            told = usage_of(error)
            usage = told if told != NO_USAGE or not isinstance(error, DeadlineExceededError) else usage
        spend(usage if self._priced is None else self._priced(usage))
