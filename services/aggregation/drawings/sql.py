"""Drawings in the ledger's SQL database."""

import asyncio
import json
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Row, Select, and_, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.schema import Table

from services.aggregation.connections import borrowed, database_errors
from services.aggregation.drawings.encoding import (
    decode_floats,
    decode_history,
    decode_positions,
    decode_spec,
    decode_texts,
    encode_floats,
    encode_history,
    encode_positions,
    encode_spec,
    encode_texts,
)
from services.aggregation.drawings.errors import LateDrawingError
from services.aggregation.drawings.records import Batch, Drawing, DrawingSpec, PastResults
from services.aggregation.drawings.schema import DRAWING_BATCHES, DRAWINGS
from services.aggregation.drawings.scores import SampleOutcome
from services.aggregation.drawings.store import EarlierDrawing, NewDrawing, Prediction, Progress
from services.aggregation.errors import LedgerReplacedError, RunDeletedError
from services.aggregation.incarnations import incarnation
from services.aggregation.rows import failures_of
from services.aggregation.schema import RESULTS, RUNS
from services.runtime.database import unbroken

# SQLite takes up to 32,766 variables a statement; fewer are planned faster.
_ITEMS_A_QUERY = 500
_PIECE_ROWS = 1000

_D, _B, _R = DRAWINGS.c, DRAWING_BATCHES.c, RESULTS.c
_OUTCOME = (_R.item, _R.sample, _R.metrics, _R.counted_as, _R.metric_failures)


class SqlDrawings:
    """A ``DrawingStore``.

    Args:
        engine: of the ledger's database.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._incarnation = incarnation(engine.dialect)

    async def tasks(self, run: str) -> list[str]:
        """See ``DrawingStore.tasks``."""
        query = (
            select(RUNS.c.delete_microseconds, _D.task)
            .outerjoin_from(RUNS, DRAWINGS, RUNS.c.run_id == _D.run_id)
            .where(RUNS.c.name == run)
            .order_by(_D.task)
        )
        rows = await self._rows(query)
        if rows and rows[0].delete_microseconds is not None:
            raise RunDeletedError(run)
        return [row.task for row in rows if row.task is not None]

    async def find(self, run: str, task: str) -> Drawing | None:
        """See ``DrawingStore.find``."""
        columns = [each for each in DRAWINGS.columns if each is not _D.history]
        query = select(*columns, self._incarnation.label("incarnation")).join(RUNS, RUNS.c.run_id == _D.run_id)
        rows = await self._rows(query.where(RUNS.c.name == run, _D.task == task))
        return await asyncio.to_thread(_drawing_of, rows[0]) if rows else None

    async def history(self, drawing: Drawing) -> PastResults | None:
        """See ``DrawingStore.history``."""
        rows = await self._rows(select(_D.history).where(self._is(drawing)))
        if not rows:
            raise LedgerReplacedError
        return await asyncio.to_thread(decode_history, rows[0].history, drawing.history_runs, len(drawing.item_ids))

    async def create(self, new: NewDrawing) -> bool:
        """See ``DrawingStore.create``."""
        values = await asyncio.to_thread(_values_of, new)
        with database_errors():
            return await unbroken(self._create(new.spec, values))

    async def progress(self, drawing: Drawing, from_batch: int) -> Progress:
        """See ``DrawingStore.progress``."""
        # One statement, so that no item is counted of a batch that is not seen yet.
        batches = (_B.drawing_id == _D.drawing_id) & (_B.batch >= from_batch)
        query = select(_D.drawn_count, *DRAWING_BATCHES.columns).outerjoin_from(DRAWINGS, DRAWING_BATCHES, batches)
        rows = await self._rows(query.where(self._is(drawing)).order_by(_B.batch))
        if not rows:
            raise LedgerReplacedError
        if rows[0].batch is None:
            return Progress((), rows[0].drawn_count)
        return Progress(await asyncio.to_thread(_batches_of, rows), rows[0].drawn_count)

    async def add_batch(self, drawing: Drawing, batch: Batch, follows: str) -> bool:
        """See ``DrawingStore.add_batch``."""
        values = {"drawing_id": drawing.drawing_id, **await asyncio.to_thread(_batch_values, batch)}
        before = (_B.drawing_id == _D.drawing_id) & (_B.batch == batch.index - 1)
        digest = _B.digest if batch.index else _D.order_digest
        row = select(*(literal(value, _B[name].type) for name, value in values.items()))
        row = row.select_from(DRAWINGS.outerjoin(DRAWING_BATCHES, before)).where(self._is(drawing), digest == follows)
        new = self._insert_new(DRAWING_BATCHES).from_select(list(values), row)
        with database_errors():
            return await unbroken(self._execute(new)) == 1

    async def hand_out(self, drawing: Drawing, count: int) -> None:
        """See ``DrawingStore.hand_out``."""
        drawn = func.max if self._engine.dialect.name == "sqlite" else func.greatest
        change = update(DRAWINGS).where(self._is(drawing)).values(drawn_count=drawn(_D.drawn_count, count))
        with database_errors():
            if not await unbroken(self._execute(change)):
                raise LedgerReplacedError

    async def outcomes(self, drawing: Drawing, items: Sequence[str]) -> list[SampleOutcome]:
        """See ``DrawingStore.outcomes``."""
        found: list[SampleOutcome] = []
        for start in range(0, len(items), _ITEMS_A_QUERY):
            of_these = _R.item.in_(items[start : start + _ITEMS_A_QUERY])
            query = _outcomes(drawing.spec.run, drawing.spec.task).where(of_these)
            found += [_outcome_of(row) for row in await self._rows(query)]
        return found

    async def all_outcomes(self, run: str, task: str) -> AsyncGenerator[Sequence[SampleOutcome]]:
        """See ``DrawingStore.all_outcomes``."""
        query = _outcomes(run, task)
        with database_errors():
            async with borrowed(self._engine) as connection:
                rows = await unbroken(connection.stream(query).start())
                while piece := await unbroken(rows.fetchmany(_PIECE_ROWS)):
                    yield await asyncio.to_thread(_outcomes_of, piece)

    async def earlier(self, spec: DrawingSpec) -> list[EarlierDrawing]:
        """See ``DrawingStore.earlier``."""
        query = (
            select(_D.drawing_id, RUNS.c.name, _D.task, _D.order_seed)
            .join(RUNS, RUNS.c.run_id == _D.run_id)
            .where(_D.data_digest == spec.data_digest, _D.metric == spec.metric, RUNS.c.name != spec.run)
            .order_by(_D.drawing_id)
        )
        return [EarlierDrawing(row.drawing_id, row.name, row.task, row.order_seed) for row in await self._rows(query)]

    async def known_runs(self, runs: Sequence[str]) -> Collection[str]:
        """See ``DrawingStore.known_runs``."""
        rows = await self._rows(select(RUNS.c.name).where(RUNS.c.name.in_(runs))) if runs else []
        return {row.name for row in rows}

    async def last_prediction(self, drawing_id: int) -> Prediction | None:
        """See ``DrawingStore.last_prediction``."""
        query = (
            select(_B.predictions, _D.item_ids)
            .join(DRAWINGS, _D.drawing_id == _B.drawing_id)
            .where(_B.drawing_id == drawing_id, _B.predictions.is_not(None))
            .order_by(_B.batch.desc())
            .limit(1)
        )
        rows = await self._rows(query)
        return await asyncio.to_thread(_prediction_of, rows[0]) if rows else None

    async def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with database_errors():
            async with borrowed(self._engine) as connection:
                rows: Sequence[Row[Any]] = (await unbroken(connection.execute(query))).all()
                return rows

    async def _execute(self, change: Any) -> int:
        async with self._engine.begin() as connection:
            changed: CursorResult[Any] = await connection.execute(change)
            return changed.rowcount

    def _is(self, drawing: Drawing) -> ColumnElement[bool]:
        """Whether a row is a drawing's, and not of another one that has its id in another incarnation."""
        return and_(_D.drawing_id == drawing.drawing_id, self._incarnation == drawing.incarnation)

    async def _create(self, spec: DrawingSpec, values: Mapping[str, Any]) -> bool:
        async with self._engine.begin() as connection:
            # A write comes first: SQLite then holds its lock from the first read on.
            await connection.execute(self._insert_new(RUNS).values(name=spec.run))
            run_id = (await connection.execute(select(RUNS.c.run_id).where(RUNS.c.name == spec.run))).scalar_one()
            of_task = select(_D.drawing_id).where(_D.run_id == run_id, _D.task == spec.task)
            if (await connection.execute(of_task)).first() is not None:
                return False
            await _refuse_late(connection, run_id, spec)
            inserted = await connection.execute(self._insert_new(DRAWINGS).values(run_id=run_id, **values))
            return inserted.rowcount == 1

    def _insert_new(self, table: Table) -> Insert:
        """An INSERT that leaves alone what is there already."""
        if self._engine.dialect.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()


async def _refuse_late(connection: AsyncConnection, run_id: int, spec: DrawingSpec) -> None:
    results = select(_R.item).where(_R.run_id == run_id, _R.task == spec.task).limit(1)
    if (await connection.execute(results)).first() is not None:
        raise LateDrawingError(spec.run, spec.task)


def _values_of(new: NewDrawing) -> dict[str, Any]:
    return {
        "task": new.spec.task,
        "data_digest": new.spec.data_digest,
        "metric": new.spec.metric,
        "order_seed": new.order_seed,
        "order_digest": new.order_digest,
        "create_microseconds": new.create_microseconds,
        "item_count": len(new.item_ids),
        "drawn_count": 0,
        "spec": encode_spec(new.spec),
        "history_runs": encode_texts(new.past.runs if new.past else ()),
        "item_ids": encode_texts(new.item_ids),
        "history": encode_history(new.past),
    }


def _drawing_of(row: Row[Any]) -> Drawing:
    return Drawing(
        drawing_id=row.drawing_id,
        incarnation=row.incarnation,
        spec=decode_spec(row.spec),
        item_ids=decode_texts(row.item_ids),
        order_seed=row.order_seed,
        order_digest=row.order_digest,
        history_runs=decode_texts(row.history_runs),
        create_microseconds=row.create_microseconds,
    )


def _batch_values(batch: Batch) -> dict[str, Any]:
    return {
        "batch": batch.index,
        "first_draw_index": batch.first_draw_index,
        "digest": batch.digest,
        "positions": encode_positions(batch.positions),
        "predictions": encode_floats(batch.predictions),
        "weights": encode_floats(batch.weights),
        "variances": encode_floats(batch.variances),
    }


def _batches_of(rows: Sequence[Any]) -> tuple[Batch, ...]:
    return tuple(_batch_of(row) for row in rows)


def _batch_of(row: Row[Any]) -> Batch:
    return Batch(
        index=row.batch,
        first_draw_index=row.first_draw_index,
        positions=decode_positions(row.positions),
        predictions=decode_floats(row.predictions),
        weights=decode_floats(row.weights),
        variances=decode_floats(row.variances),
        digest=row.digest,
    )


def _prediction_of(row: Row[Any]) -> Prediction | None:
    values = decode_floats(row.predictions)
    return None if values is None else Prediction(decode_texts(row.item_ids), values)


def _outcomes(run: str, task: str) -> Select[Any]:
    """Asks for the samples of a run's task; the run by its name, since its id may be another's by now."""
    run_id = select(RUNS.c.run_id).where(RUNS.c.name == run).scalar_subquery()
    return select(*_OUTCOME).where(_R.run_id == run_id, _R.task == task)


def _outcomes_of(rows: Sequence[Any]) -> list[SampleOutcome]:
    return [_outcome_of(row) for row in rows]


def _outcome_of(row: Row[Any]) -> SampleOutcome:
    counted = _metrics(row.metrics or row.counted_as or "{}")
    for failure in failures_of(row.metric_failures):
        counted = {**counted, **failure.counted_as}
    return SampleOutcome(row.item, row.sample, counted)


# Most rows repeat a few values.
@lru_cache(maxsize=4096)
def _metrics(text: str) -> Mapping[str, float]:
    metrics: Mapping[str, float] = json.loads(text)
    return metrics
