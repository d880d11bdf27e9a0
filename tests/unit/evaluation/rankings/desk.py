"""Rankings of three models whose answers are known, judged by a rule."""

import asyncio
import dataclasses
from collections.abc import Sequence

from services.evaluation.items import Prompt
from services.evaluation.rankings.judge import Judged, Judgement
from services.evaluation.rankings.manager import RankingManager
from services.evaluation.rankings.record import Ranking, RankingRequest, Span, Standing
from services.evaluation.rankings.store import RankingStore
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.leases import LeaseTimes
from services.evaluation.runs.peers import GeneratedText, GenerationOptions
from services.evaluation.runs.store import RunStore
from services.runtime.errors import (
    not_found,
)
from tests.fakes.evaluation_peers import FakeGenerator, Fleet
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.evaluation.runs.suite_books import Book

TIMES = LeaseTimes(lease_seconds=1.0, renewal_seconds=0.1, poll_seconds=0.05)
MODELS = ("models/bad", "models/good", "models/fair")
REQUEST = RankingRequest(suite="demo", task="shout", models=MODELS, top=1)
ITEMS = 240


class Choir(FakeGenerator):
    """Three models that shout back: one always, one nine times of ten, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.by_model: dict[str, list[str]] = {model: [] for model in MODELS}

    async def model_digest(self, model: str) -> str:
        if model not in MODELS:
            raise not_found("model", model, MODELS)
        return f"digest of {model}"

    async def generate(self, model: str, prompt: Prompt, options: GenerationOptions) -> Sequence[GeneratedText]:
        given = await super().generate(model, prompt, options)
        text = given[0].text
        self.by_model[model].append(text)
        number = int(text.split()[1])
        is_right = model == "models/good" or (model == "models/fair" and number % 10 > 0)
        return [dataclasses.replace(each, text=text if is_right else "what?") for each in given]


class FakeJudge:
    """Drops whoever has ten right answers fewer than the best on the common prefix: a rule instead of statistics.

    With a tolerance it calls whoever is in after 32 items tied.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._ledger = fleet.ledger
        self.asked: list[int] = []
        self.error: Exception | None = None

    async def judge(self, ranking: Ranking) -> Judgement:
        if self.error is not None:
            raise self.error
        scores = [self._scores(each.run) for each in ranking.contenders]
        is_in, after = [True] * len(scores), [0] * len(scores)
        count = 0
        while sum(is_in) > 1 and all(len(each) > count for each, wanted in zip(scores, is_in, strict=True) if wanted):
            count += 1
            totals = [sum(each[:count]) for each in scores]
            best = max(total for total, wanted in zip(totals, is_in, strict=True) if wanted)
            for index, total in enumerate(totals):
                if is_in[index] and best - total >= 10:
                    is_in[index], after[index] = False, count
            if ranking.tolerance and count == 32:
                break
        is_decided = sum(is_in) == 1 or bool(ranking.tolerance and count == 32)
        self.asked.append(count)
        known = Standing.TIED if is_decided else Standing.CONTENDING
        standings = [known if wanted else Standing.OUT for wanted in is_in]
        if is_decided:
            standings[is_in.index(True)] = Standing.TOP
        runs = [
            Judged(
                standing,
                count if wanted and is_decided else out or None,
                sum(each) / len(each) if each else None,
                Span(0.0, 1.0, 0.98, "fake"),
                None,
                len(each),
            )
            for each, standing, wanted, out in zip(scores, standings, is_in, after, strict=True)
        ]
        return Judgement(runs, count, is_decided)

    def _scores(self, run: str) -> list[float]:
        """The scores of the completed prefix."""
        rows = {row.draw_index: row for (its_run, *_), row in self._ledger.rows.items() if its_run == run}
        found: list[float] = []
        while len(found) in rows:
            found.append((rows[len(found)].metrics or {}).get("exact_match", 0.0))
        return found


class Desk:
    """Makes managers of one list of rankings: each is a service that was started anew."""

    def __init__(self, stores: tuple[RankingStore, RunStore], book: Book, fleet: Fleet) -> None:
        self.stores = stores
        self.fleet = fleet
        self.book = book
        self.judge = FakeJudge(fleet)
        self.allowances: Allowances | None = None

    def manager(self) -> RankingManager:
        return RankingManager(
            *self.stores,
            self.book,
            self.fleet.peers,
            self.judge,
            parallel_rankings=2,
            default_concurrency=6,
            patience_seconds=5.0,
            lease_times=TIMES,
            allowances=self.allowances,
        )

    async def ended(self, request: RankingRequest) -> Ranking:
        manager = self.manager()
        await manager.start()
        ranking = await end_of(manager, (await manager.create(request)).ranking_id)
        await manager.stop()
        return ranking


async def end_of(manager: RankingManager, ranking_id: str) -> Ranking:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        return [each async for each in manager.watch(ranking_id)][-1]
