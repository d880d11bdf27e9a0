"""Reads from the ledger what comparisons need."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol

from sqlalchemy import Row

from services.aggregation.comparison.answers import Answer
from services.aggregation.comparison.draw_orders import DrawOrder, order_of
from services.aggregation.ledger import ResultFilter, SqlLedger
from services.aggregation.rows import OBSERVATION_COLUMNS, PROMPT_COLUMNS, observation_of, prompt_of, with_texts
from services.aggregation.schema import RESULTS

_C: Final = RESULTS.c
_PIECE_ROWS: Final = 1000


class AnswerSource(Protocol):
    """Gives runs' answers in the order of their keys, in pieces."""

    def answers(self, run: str, task: str | None) -> AsyncGenerator[Sequence[Answer]]:
        """Yield pieces of all answers of a run; raises ``NotFoundError`` for a run without results."""
        ...

    async def order(self, run: str, task: str) -> DrawOrder | None:
        """Return how a run's items were drawn; None if nobody drew them: they came in a seeded order, all alike."""
        ...

    async def newest_runs(self, task: str, limit: int) -> Sequence[str]:
        """Return up to ``limit`` runs that have results of a task, newest first."""
        ...

    async def model_digest(self, run: str, task: str) -> str | None:
        """Return the model digest of a run's first answer of a task; None if it has none."""
        ...


class LedgerAnswers:
    """An ``AnswerSource`` over the ledger.

    Every piece is a statement of its own: a comparison reads two runs at once, and a database does not keep a cursor
    open for a reader that waits for the other one. Results never change; what comes meanwhile may be seen or not.
    """

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger

    async def answers(self, run: str, task: str | None) -> AsyncGenerator[Sequence[Answer]]:
        """See ``AnswerSource.answers``."""
        columns = (*OBSERVATION_COLUMNS, _C.draw_index, _C.judges, *PROMPT_COLUMNS)
        wanted, source = ResultFilter(task), with_texts("prompt")
        while piece := await self._ledger.rows(run, columns, wanted, _PIECE_ROWS, _answer_of, source=source):
            yield piece
            if len(piece) < _PIECE_ROWS:
                return
            wanted = ResultFilter(task, after=piece[-1].observation.key)

    async def order(self, run: str, task: str) -> DrawOrder | None:
        """See ``AnswerSource.order``."""
        drawing = await self._ledger.drawings.find(run, task)
        if drawing is None:
            return None
        progress = await self._ledger.drawings.progress(drawing, 0)
        return await asyncio.to_thread(order_of, len(drawing.item_ids), progress.batches)

    async def newest_runs(self, task: str, limit: int) -> Sequence[str]:
        """See ``AnswerSource.newest_runs``."""
        found: list[str] = []
        for run in await self._ledger.run_names():
            if await self.model_digest(run, task) is not None:
                found.append(run)
                if len(found) == limit:
                    break
        return found

    async def model_digest(self, run: str, task: str) -> str | None:
        """See ``AnswerSource.model_digest``."""
        found = await self._ledger.rows(run, (_C.model_digest,), ResultFilter(task), 1, lambda row: row.model_digest)
        return str(found[0]) if found else None


def _answer_of(row: Row[tuple[object, ...]]) -> Answer:
    return Answer(observation_of(row), row.draw_index, row.judges, prompt_of(row))
