"""What the items of one block were reserved for, and what they cost."""

import asyncio
import contextlib
from dataclasses import replace
from typing import Final

from services.evaluation.runs.accounts import Grant
from services.evaluation.runs.allowances import Allowance
from services.evaluation.runs.budget import BudgetKeeper, Spend

_LONGEST_BOOKING_SECONDS: Final = 1.0
"""Nothing else begins meanwhile, so that no later draw goes ahead of one that is put back."""


class BlockAccount:
    """Settles a block with the run's budget and the caller's while its items come to be done.

    Args:
        keeper: the run's budget, in which the block is reserved.
        reserved: for all of its items together.
        item_count: how many they are.
        allowance: the caller's budget; None: it is not limited.

    Attributes:
        open_count: items that are neither done nor given back.
        was_taken: somebody may have asked some of them.
    """

    def __init__(self, keeper: BudgetKeeper, reserved: Spend, item_count: int, allowance: Allowance | None) -> None:
        self.open_count = item_count
        self.was_taken = False
        self._keeper = keeper
        self._reserved = reserved
        self._each = reserved * (1 / item_count)
        self._left = reserved
        self._spent = Spend()
        self._allowance = allowance
        self._grant: Grant | None = None
        self._is_closed = False

    async def admit(self) -> bool:
        """Reserve the block with the caller's budget too, and return whether it has room at once."""
        if self._allowance is None:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_BOOKING_SECONDS):
                self._grant = await self._allowance.reserve_now(self._reserved)
        return self._grant is not None

    def settle(self, item_count: int, spent: Spend | None) -> None:
        """Replace the reservation of some items by what they cost; None: they count as what was reserved.

        Of a block that was given back or cancelled all is settled already.
        """
        if self._is_closed:
            return
        reserved = replace(self._each * item_count, items=item_count)
        actual = replace(reserved if spent is None else spent, items=item_count)
        self._settle(reserved, actual)
        self.open_count -= item_count

    def give_back(self) -> None:
        """Drop what is reserved for items that were not asked, or whose asker is gone."""
        self._settle(self._left, Spend())
        self._close()

    def note_taken(self) -> None:
        """From now on somebody may have asked some of them."""
        self.was_taken = True

    def cancel(self) -> None:
        """Count what may be in flight as what is reserved for it; items that nobody has asked cost nothing."""
        if self._is_closed:
            return
        if not self.was_taken:
            self.give_back()
            return
        self._settle(self._left, self._left)
        self._close()

    def _settle(self, reserved: Spend, actual: Spend) -> None:
        self._left -= reserved
        self._spent += actual
        self._keeper.settle_block(reserved, actual)

    def _close(self) -> None:
        self.open_count = 0
        self._is_closed = True
        if self._allowance is not None and self._grant is not None:
            self._allowance.settle(self._grant, self._spent)
