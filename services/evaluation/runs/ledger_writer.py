"""Sends outcomes to the ledger in batches, so that one slow write does not hold up many items."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.outcome import Failure, ItemOutcome
from services.evaluation.runs.peers import Ledger
from services.evaluation.runs.retry import wait_out
from services.runtime.errors import InvalidArgumentError
from services.runtime.pacing import Pacer

_BATCH_LIMIT = 512
_PACE_SECONDS = 0.05


class LedgerWriter:
    """Writes one run's outcomes in the background; an outcome counts only once the ledger has acknowledged it.

    ``write`` waits while ``capacity`` outcomes are unsaved, so that a ledger that is away stops the run instead of
    filling the memory.
    """

    def __init__(
        self,
        ledger: Ledger,
        run: str,
        *,
        on_saved: Callable[[Sequence[ItemOutcome]], None],
        on_decision: Callable[[TaskDecision], None],
        capacity: int = 1024,
        patience_seconds: float = 300.0,
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._on_saved = on_saved
        self._on_decision = on_decision
        self._patience_seconds = patience_seconds
        self._waiting: asyncio.Queue[ItemOutcome | None] = asyncio.Queue(capacity)
        self._pacer = Pacer(_PACE_SECONDS)

    async def write(self, outcome: ItemOutcome) -> None:
        """Hand over one outcome."""
        await self._waiting.put(outcome)

    async def finish(self) -> None:
        """Tell ``drain`` that no more outcomes come."""
        await self._waiting.put(None)

    async def drain(self) -> None:
        """Save outcomes until ``finish``; run this beside whatever writes.

        Raises:
            FleetError: the ledger was away longer than the patience, or refuses even a bare failure.
        """
        open_ended = True
        while open_ended:
            batch, open_ended = await self._next_batch()
            if batch:
                await self._save(batch)

    async def _save(self, batch: Sequence[ItemOutcome]) -> None:
        try:
            append = partial(self._ledger.append, self._run, batch)
            receipt = await wait_out(append, patience_seconds=self._patience_seconds)
        except InvalidArgumentError as error:
            # One unstorable outcome must not take its neighbours along.
            if len(batch) > 1:
                for outcome in batch:
                    await self._save([outcome])
                return
            if batch[0].failure is not None:
                raise
            await self._save([_refused(batch[0], error)])
            return
        dropped = {id(each) for each in receipt.dropped}
        self._on_saved([each for each in batch if id(each) not in dropped])
        for decision in receipt.decisions:
            self._on_decision(decision)

    async def _next_batch(self) -> tuple[list[ItemOutcome], bool]:
        """All outcomes that wait, at least one, and whether more may come."""
        batch: list[ItemOutcome] = []
        outcome = await self._waiting.get()
        if not self._waiting.full() and (delay := self._pacer.delay_seconds()) > 0:
            await asyncio.sleep(delay)
        while outcome is not None:
            batch.append(outcome)
            if len(batch) == _BATCH_LIMIT or self._waiting.empty():
                self._pacer.sent(len(batch))
                return batch, True
            outcome = self._waiting.get_nowait()
        return batch, False


def _refused(outcome: ItemOutcome, error: InvalidArgumentError) -> ItemOutcome:
    """The failure that is stored in place of an outcome that the ledger refuses, without the texts it may dislike."""
    failure = Failure("LEDGER_REFUSED", error.message)
    return dataclasses.replace(
        outcome,
        metrics=None,
        failure=failure,
        metric_failures=(),
        prompt="",
        output="",
        extracted_answer=None,
        targets=(),
        groups={},
        judges=(),
    )
