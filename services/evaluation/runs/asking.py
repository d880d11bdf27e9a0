"""Asks the model what an item asks: for answers, or for how likely its choices or its text are."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from services.evaluation.items import ContinuationGroup, Item, MultipleChoice, Prompt
from services.evaluation.runs.judging import OutputText
from services.evaluation.runs.peers import ContinuationScores, GenerationOptions, Generator
from services.evaluation.runs.retry import wait_out
from services.evaluation.specification import Truncation
from services.evaluation.tasks import Task
from services.runtime.errors import FleetError, InternalError
from services.runtime.usage import Meter, Usage, usage_of, with_usage


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What the model gave for one sample.

    Attributes:
        judged: text, or log-likelihoods of choices or of the item's text.
        usage: what it cost.
        model_digest: which exact model answered.
        truncated: the prompt was shortened to fit.
    """

    judged: OutputText
    usage: Usage
    model_digest: str
    truncated: bool

    @property
    def for_the_ledger(self) -> str:
        """The text itself, or the log-likelihoods as JSON."""
        output = self.judged
        if output.text is not None and output.token_count is None:
            return output.text
        told: dict[str, object] = {"log_likelihoods": output.log_likelihoods}
        if output.token_count is not None:
            told["token_count"] = output.token_count
        if output.unconditional:
            told["unconditional_log_likelihoods"] = output.unconditional
        return json.dumps(told)


class ModelAsking:
    """Asks one model the items of one task.

    Args:
        task: says how.
        model: its name.
        seed: of the run.
        generator: the generation service.
        patience_seconds: longest that the service may be away.
    """

    def __init__(self, task: Task, *, model: str, seed: int, generator: Generator, patience_seconds: float) -> None:
        self._name = task.name
        self._generation = task.spec.generation
        self._truncates = task.spec.truncation is Truncation.LEFT
        self._model = model
        self._seed = seed
        self._generator = generator
        self._patience_seconds = patience_seconds

    async def ask(self, item: Item) -> Sequence[ModelOutput]:
        """Return one output a sample.

        Raises:
            FleetError: there is none; what was spent all the same is in its metadata.
        """
        if item.multiple_choice is not None:
            spent = Meter()
            try:
                return [await self._score_choices(item.multiple_choice, spent)]
            except FleetError as error:
                raise with_usage(error, usage_of(error) + spent.usage) from error
        if item.prompt is None:
            raise InternalError(f"item {item.item_id} has neither prompt nor choices")
        if item.scored_text is not None:
            return [await self._score_text(item.prompt, item.delimiter, item.scored_text)]
        settings = self._generation
        options = GenerationOptions(
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            stop=settings.stop,
            seed=_item_seed(self._seed, self._name, item.item_id) if settings.temperature > 0 else None,
            sample_count=settings.sample_count,
            truncate_left=self._truncates,
        )
        generate = partial(self._generator.generate, self._model, item.prompt, options)
        answers = await wait_out(generate, patience_seconds=self._patience_seconds)
        return [
            ModelOutput(OutputText(each.text, None), each.usage, each.model_digest, each.truncated) for each in answers
        ]

    async def _score_choices(self, question: MultipleChoice, spent: Meter) -> ModelOutput:
        """Log-likelihoods of all choices: one request a distinct context, and one without the question if wanted."""
        log_likelihoods = [0.0] * len(question.choices)
        digest, truncated = "", False
        for group in question.groups():
            scores = await self._score(group)
            for index, value in zip(group.choice_indices, scores.log_likelihoods, strict=True):
                log_likelihoods[index] = value
            spent.add(scores.usage)
            digest = scores.model_digest
            truncated = truncated or scores.truncated
        unconditional: tuple[float, ...] = ()
        if (alone := question.unconditional_group()) is not None:
            scores = await self._score(alone)
            unconditional = scores.log_likelihoods
            spent.add(scores.usage)
            truncated = truncated or scores.truncated
            if scores.model_digest != digest:
                raise InternalError("the model was replaced between an item's questions", reason="MODEL_CHANGED")
        return ModelOutput(OutputText(None, tuple(log_likelihoods), unconditional), spent.usage, digest, truncated)

    async def _score_text(self, prompt: Prompt, delimiter: str, text: str) -> ModelOutput:
        """Log-likelihood of a text behind a prompt, which may be empty."""
        found = await self._score(ContinuationGroup(prompt, (delimiter + text,), (0,)))
        output = OutputText(text, found.log_likelihoods, token_count=found.token_counts[0])
        return ModelOutput(output, found.usage, found.model_digest, found.truncated)

    async def _score(self, group: ContinuationGroup) -> ContinuationScores:
        score = partial(
            self._generator.score,
            self._model,
            group.context,
            group.continuations,
            truncate_left=self._truncates,
        )
        return await wait_out(score, patience_seconds=self._patience_seconds)


def _item_seed(run_seed: int, task: str, item: str) -> int:
    """Seed of an item's samples: the same for every model and every attempt."""
    digest = hashlib.sha256(f"{run_seed}\0{task}\0{item}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
