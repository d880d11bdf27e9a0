"""Named fakes of the four services that the evaluation service asks."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from services.evaluation.errors import LeaseLostError
from services.evaluation.items import Message, PlainPrompt, Prompt
from services.evaluation.judging_specification import SafetyJudging, ScorerUse
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.model_changes import ModelContent
from services.evaluation.runs.outcome import ItemOutcome, JudgeReference
from services.evaluation.runs.peers import (
    AppendReceipt,
    ContinuationScores,
    GeneratedText,
    GenerationOptions,
    ItemKey,
    Peers,
    SafetyVerdict,
    ScoredOutput,
    ScorerCall,
    TaskFindings,
)
from services.runtime.errors import FleetError, not_found
from services.runtime.usage import Usage
from tests.fakes.drawings import FakeDrawings


class FakeGenerator:
    """Answers with the prompt's text in capitals; fails for prompts that `failures` names."""

    def __init__(self) -> None:
        self.failures: dict[str, list[FleetError]] = {}
        self.asked: list[str] = []
        self.options: list[GenerationOptions] = []
        self.digest = "digest-1"
        self.base_digest = "base-1"
        self.lineage_digest = "lineage-1"
        self.gate: asyncio.Event | None = None
        self.waiting: list[str] = []

    async def model_digest(self, model: str) -> str:
        if model != "models/tiny":
            raise not_found("model", model, ["models/tiny"])
        return self.digest

    async def model_content(self, model: str) -> ModelContent:
        return ModelContent(await self.model_digest(model), self.base_digest, self.lineage_digest)

    async def generate(self, model: str, prompt: Prompt, options: GenerationOptions) -> Sequence[GeneratedText]:
        text = await self._asked(prompt)
        self.options.append(options)
        return [
            GeneratedText(text.upper(), Usage(3 if index == 0 else 0, 2, 0.5), self.digest, truncated=False)
            for index in range(options.sample_count)
        ]

    async def score(
        self, model: str, context: Prompt, continuations: Sequence[str], *, truncate_left: bool
    ) -> ContinuationScores:
        await self._asked(context)
        values = tuple(-float(len(each)) for each in continuations)
        counts = tuple(len(each.split()) for each in continuations)
        usage = Usage(5, len(continuations), 0.25)
        return ContinuationScores(values, counts, usage, self.digest, truncated=truncate_left)

    async def _asked(self, prompt: Prompt) -> str:
        text = prompt.text if isinstance(prompt, PlainPrompt) else prompt.messages[-1].content
        if self.gate is not None:
            self.waiting.append(text)
            await self.gate.wait()
        self.asked.append(text)
        if self.failures.get(text):
            raise self.failures[text].pop(0)
        return text


class FakeSafetyJudge:
    """Calls a text unsafe that contains "bad", cannot judge one that contains "garbled", and knows one policy.

    Of one that contains "endless" it reads only a part.
    """

    def __init__(self) -> None:
        self.judged: list[Sequence[Message]] = []
        self.cost = Usage()
        self.failures: list[FleetError] = []

    async def classify(self, messages: Sequence[Message], judging: SafetyJudging) -> SafetyVerdict:
        self.judged.append(messages)
        if self.failures:
            raise self.failures.pop(0)
        text = messages[-1].content.lower()
        decision = "error" if "garbled" in text else "unsafe" if "bad" in text else "safe"
        reason = "NAN" if decision == "error" else ""
        judges = (JudgeReference("guards/g", "1", "d"),)
        return SafetyVerdict(decision, reason, "endless" in text, judges, self.cost)

    async def check(self, judgings: Sequence[SafetyJudging]) -> None:
        for judging in judgings:
            if judging.policy not in (None, "strict"):
                raise not_found("policy", judging.policy, ["strict"])


class FakeScorerPanel:
    """Knows exact_match and multiple_choice."""

    async def score(self, calls: Sequence[ScorerCall]) -> Sequence[ScoredOutput | FleetError]:
        return [self._one(call) for call in calls]

    def _one(self, call: ScorerCall) -> ScoredOutput:
        reference = JudgeReference(f"scorers/{call.scorer}", "1", "d")
        if call.log_likelihoods is not None:
            best = max(range(len(call.log_likelihoods)), key=call.log_likelihoods.__getitem__)
            return ScoredOutput({"acc": float(best in call.gold_indices)}, None, reference)
        return ScoredOutput({"exact_match": float(call.text in call.targets)}, call.text, reference)

    async def check(self, uses: Sequence[ScorerUse]) -> None:
        for use in uses:
            if use.scorer not in ("exact_match", "multiple_choice"):
                raise not_found("scorer", use.scorer, ["exact_match", "multiple_choice"])


class FakeLedger:
    """Keeps outcomes in a dictionary, first come first kept; `errors` are raised one a call before anything else.

    Of each run it takes what comes under the newest lease that it has seen. ``after_append`` is called whenever
    outcomes were stored, before the caller learns of it.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str, int], ItemOutcome] = {}
        self.epochs: dict[str, int] = {}
        self.epoch: int | None = None
        self.errors: list[FleetError] = []
        self.drawings = FakeDrawings(self.rows)
        self.refuses: Callable[[ItemOutcome], FleetError | None] = lambda _: None
        self.after_append: Callable[[], None] = lambda: None
        self.incarnations = ["first"]

    def fenced(self, epoch: int) -> "FakeLedger":
        fenced = copy.copy(self)
        fenced.epoch = epoch
        return fenced

    async def append(self, run: str, outcomes: Sequence[ItemOutcome]) -> AppendReceipt:
        if outcomes and self.errors:
            raise self.errors.pop(0)
        if self.epoch is not None:
            if self.epoch < self.epochs.get(run, 0):
                raise LeaseLostError(f"{run} is somebody else's")
            self.epochs[run] = self.epoch
        for outcome in outcomes:
            if error := self.refuses(outcome):
                raise error
        before = len(self.rows)
        for outcome in outcomes:
            self.rows.setdefault((run, outcome.task, outcome.item, outcome.sample), outcome)
        tasks = dict.fromkeys(outcome.task for outcome in outcomes)
        decided = (self.drawings.decision(run, task) for task in tasks)
        decisions = [each for each in decided if each is not None]
        receipt = AppendReceipt(len(self.rows) - before, decisions, incarnation=self.incarnations[-1])
        if outcomes:
            self.after_append()
        return receipt

    async def findings(self, run: str) -> Mapping[str, TaskFindings]:
        spent: dict[str, Spend] = {}
        for (its_run, task, _, _), outcome in self.rows.items():
            if its_run == run:
                spent[task] = spent.get(task, Spend()) + Spend.of_item(outcome.usage)
        return {task: TaskFindings(each, {}) for task, each in spent.items()}

    async def keys(self, run: str) -> AsyncIterator[ItemKey]:
        for (its_run, task, item, sample), outcome in list(self.rows.items()):
            if its_run == run:
                yield ItemKey(task, item, sample, outcome.failure is not None, outcome.draw_index)


class Fleet:
    """The four fakes together."""

    def __init__(self) -> None:
        self.generator = FakeGenerator()
        self.safety = FakeSafetyJudge()
        self.scorers = FakeScorerPanel()
        self.ledger = FakeLedger()

    @property
    def peers(self) -> Peers:
        return Peers(self.generator, self.safety, self.scorers, self.ledger, self.ledger.drawings)
