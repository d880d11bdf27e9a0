"""A fake of the models that judge: answers by a function of the prompt, counts what it was asked."""

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.errors import FleetError, not_found
from services.runtime.usage import Usage
from services.scoring.judges.asking import Asking
from services.scoring.judges.judge_model import (
    Answers,
    Decoding,
    JudgePrompt,
    Likelihoods,
    ModelIdentity,
    SampledAnswer,
)
from services.scoring.judges.known_answers import KnownAnswers
from services.scoring.judges.library import open_library
from services.scoring.scorers.llm_judge import LlmJudge

ANSWER_COST = Usage(100, 10, 0.5, 100, 10, cost_micro_usd=3)
LIKELIHOOD_COST = Usage(110, 5, 0.25, 10, 5, prefix_saved_tokens=100, cost_micro_usd=1)

Say = Callable[[str, str, int], str]
"""(model, prompt, sample) → answer."""


def section(prompt: str, name: str) -> str:
    """What stands between the tags of a section of a judge's prompt."""
    return prompt.split(f"\n<{name}>\n", 1)[1].split(f"\n</{name}>", 1)[0]


class FakeJudgeModel:
    """Implements ``JudgeModel``.

    Attributes:
        identified: how often it was asked which exact model a name stands for.
        asked: (model, prompt) of every request for answers.
        scored: (answer so far, continuations) of every request for likelihoods.
        digests: of the models that there are.
        is_known: whether digests say everything.
        log_likelihoods: of the verdicts; ``None``: the models give none.
        cut: answers are cut off.
        failures: raised first, one a request for answers.
        likelihood_failures: raised first, one a request for likelihoods.
        replaced_by: digest of the model that gets the name between an answer and its likelihoods; empty: none does.
        was_asked: set with the first request for answers.
        gate: holds answers back.
    """

    def __init__(self, say: Say, *, log_likelihoods: Sequence[float] | None = None) -> None:
        self._say = say
        self.identified = 0
        self.asked: list[tuple[str, JudgePrompt]] = []
        self.decodings: list[Decoding] = []
        self.scored: list[tuple[str, tuple[str, ...]]] = []
        self.digests = {"models/judge": "d1", "models/other": "d2"}
        self.is_known = True
        self.log_likelihoods = log_likelihoods
        self.cut = False
        self.failures: list[FleetError] = []
        self.likelihood_failures: list[FleetError] = []
        self.replaced_by = ""
        self.was_asked = asyncio.Event()
        self.gate: asyncio.Event | None = None

    async def identity(self, model: str) -> ModelIdentity:
        self.identified += 1
        if model not in self.digests:
            raise not_found("model", model, self.digests)
        return ModelIdentity(self.digests[model], self.is_known)

    async def answer(self, model: str, prompt: JudgePrompt, decoding: Decoding) -> Answers:
        self.asked.append((model, prompt))
        self.decodings.append(decoding)
        self.was_asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        texts = [self._say(model, prompt.text, sample) for sample in range(decoding.sample_count)]
        return Answers(tuple(SampledAnswer(each, not self.cut) for each in texts), ANSWER_COST, self.digests[model])

    async def likelihoods(
        self, model: str, prompt: JudgePrompt, begun: str, continuations: Sequence[str]
    ) -> Likelihoods | None:
        if self.likelihood_failures:
            raise self.likelihood_failures.pop(0)
        if self.log_likelihoods is None:
            return None
        self.scored.append((begun, tuple(continuations)))
        if self.replaced_by:
            self.digests[model] = self.replaced_by
        return Likelihoods(tuple(self.log_likelihoods), LIKELIHOOD_COST, self.digests[model])


def fake_judge(say: Say = lambda model, prompt, sample: "Verdict: 4") -> LlmJudge:
    """The scorer `llm_judge` with a fake model, without a cache."""
    known = KnownAnswers(None, CacheMetrics("fake", CollectorRegistry()), engine_revision="")
    return LlmJudge(Asking(FakeJudgeModel(say), known, max_concurrent=8), open_library(), ["judge"])
