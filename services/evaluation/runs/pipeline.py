"""One item's way through the fleet: ask the model, judge what it gave, end in exactly one outcome."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import grpc
import structlog

from services.evaluation.items import ChatPrompt, InvalidItem, Item, Message, MultipleChoice, PlainPrompt, Prompt
from services.evaluation.runs.outcome import Failure, ItemOutcome, JudgeReference, Usage
from services.evaluation.runs.peers import GenerationOptions, Generator, SafetyJudge, ScorerCall, ScorerPanel
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.scoring_bill import ScoringBill
from services.evaluation.specification import UNSAFE_METRIC, Truncation
from services.evaluation.tasks import Task
from services.runtime.errors import FleetError, InternalError

_LOG = structlog.stdlib.get_logger(__name__)

# The model, a scorer or a judge is gone, or a service stayed away for longer than our patience: no item is to blame.
_FATAL = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE})
_FATAL_REASONS = frozenset(
    {"SANDBOX_UNAVAILABLE", "JUDGE_MODEL_FAILED", "JUDGE_CHAT_TEMPLATE_MISSING", "SCORE_DEADLINE_EXCEEDED"}
)
"""What no item can help: no program may be run, no judge can judge, or none had the time: no output is wrong."""

# Nothing was said, so nothing hazardous was; guards refuse to judge an empty text. This rule judged instead.
_NO_GUARD = JudgeReference("guards/none", "empty-response", hashlib.sha256(b"empty-response: safe").hexdigest())


class RunCannotGoOnError(Exception):
    """What failed for one item would fail for all of them; the run ends with ``error``."""

    def __init__(self, error: FleetError) -> None:
        super().__init__(error.message)
        self.error = error


class VerdictError(FleetError):
    """The guard could not judge an item, which therefore counts as failed, never as safe."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "SAFETY_VERDICT_ERROR"


@dataclass(frozen=True, slots=True)
class _Output:
    """What the model gave for one sample: text or the choices' log-likelihoods."""

    text: str | None
    log_likelihoods: tuple[float, ...] | None
    usage: Usage
    model_digest: str
    truncated: bool

    @property
    def for_the_ledger(self) -> str:
        """The text itself, or the log-likelihoods as JSON."""
        return self.text if self.text is not None else json.dumps({"log_likelihoods": self.log_likelihoods})


class ItemPipeline:
    """Takes the items of one task of one run to their outcomes."""

    def __init__(
        self,
        task: Task,
        *,
        model: str,
        seed: int,
        generator: Generator,
        safety: SafetyJudge,
        scorers: ScorerPanel,
        patience_seconds: float,
    ) -> None:
        self._name = task.name
        self._task = task.spec
        self._model = model
        self._seed = seed
        self._generator = generator
        self._safety = safety
        self._scorers = scorers
        self._patience_seconds = patience_seconds

    @property
    def sample_count(self) -> int:
        """Outcomes that an item has."""
        return self._task.generation.sample_count

    async def outcomes(self, item: Item | InvalidItem, draw_index: int) -> Sequence[ItemOutcome]:
        """Ask and judge one item; one outcome a sample, failures included.

        Raises:
            RunCannotGoOnError: the model is gone, or a service stayed away.
        """
        if isinstance(item, InvalidItem):
            failure = Failure(item.reason, item.message, self._task.failure_values)
            return self._all_failed(item, draw_index, failure)
        try:
            outputs = await self._ask(item)
        except FleetError as error:
            if error.code in _FATAL:
                raise RunCannotGoOnError(error) from error
            return self._all_failed(item, draw_index, self._failure(error, item))
        prompt = _prompt_text(item)
        return [await self._judge(item, output, (draw_index, sample), prompt) for sample, output in enumerate(outputs)]

    def _all_failed(self, item: Item | InvalidItem, draw_index: int, failure: Failure) -> Sequence[ItemOutcome]:
        now = time.time()
        return [
            ItemOutcome(
                task=self._name,
                item=item.item_id,
                sample=sample,
                draw_index=draw_index,
                metrics=None,
                failure=failure,
                groups={} if isinstance(item, InvalidItem) else item.groups,
                prompt="" if isinstance(item, InvalidItem) else _prompt_text(item),
                complete_time=now,
            )
            for sample in range(self.sample_count)
        ]

    def _failure(self, error: FleetError, item: Item) -> Failure:
        _LOG.info("item_failed", task=self._name, item=item.item_id, reason=error.reason, message=error.message)
        return Failure.from_error(error, self._task.failure_values)

    async def _ask(self, item: Item) -> Sequence[_Output]:
        """One output a sample."""
        if item.multiple_choice is not None:
            return [await self._score_choices(item.multiple_choice)]
        if item.prompt is None:
            raise InternalError(f"item {item.item_id} has neither prompt nor choices")
        settings = self._task.generation
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
        return [_Output(each.text, None, each.usage, each.model_digest, each.truncated) for each in answers]

    async def _score_choices(self, question: MultipleChoice) -> _Output:
        """Log-likelihoods of all choices: one request a distinct context."""
        log_likelihoods = [0.0] * len(question.choices)
        usage, digest, truncated = Usage(), "", False
        for group in question.groups():
            score = partial(
                self._generator.score,
                self._model,
                group.context,
                group.continuations,
                truncate_left=self._truncates,
            )
            scores = await wait_out(score, patience_seconds=self._patience_seconds)
            for index, value in zip(group.choice_indices, scores.log_likelihoods, strict=True):
                log_likelihoods[index] = value
            usage += scores.usage
            digest = scores.model_digest
            truncated = truncated or scores.truncated
        return _Output(None, tuple(log_likelihoods), usage, digest, truncated)

    @property
    def _truncates(self) -> bool:
        return self._task.truncation is Truncation.LEFT

    async def _judge(self, item: Item, output: _Output, place: tuple[int, int], prompt: str) -> ItemOutcome:
        """The outcome of one sample; its place is the item's index in the run's order, and its own number."""
        failure: Failure | None = None
        metrics: dict[str, float] | None
        judges: tuple[JudgeReference, ...]
        bill = ScoringBill()
        try:
            metrics, answer, judges = await self._scored(item, output, bill)
            if self._task.safety is not None:
                unsafe, safety_judges = await self._verdict(item, output)
                metrics[UNSAFE_METRIC] = unsafe
                judges = (*judges, *safety_judges)
        except FleetError as error:
            if error.code in _FATAL or error.reason in _FATAL_REASONS:
                raise RunCannotGoOnError(error) from error
            metrics, failure, answer, judges = None, self._failure(error, item), None, ()
        draw_index, sample = place
        return ItemOutcome(
            task=self._name,
            item=item.item_id,
            sample=sample,
            draw_index=draw_index,
            metrics=metrics,
            failure=failure,
            groups=item.groups,
            usage=output.usage + bill.usage,
            judges=judges,
            model_digest=output.model_digest,
            prompt=prompt,
            output=output.for_the_ledger,
            extracted_answer=answer,
            truncated=output.truncated,
            complete_time=time.time(),
        )

    async def _scored(
        self, item: Item, output: _Output, bill: ScoringBill
    ) -> tuple[dict[str, float], str | None, tuple[JudgeReference, ...]]:
        """Metrics under the task's names, what the first scorer that found one took for the answer, the scorers."""
        calls = [
            ScorerCall(
                scorer=use.scorer,
                parameters=use.parameters,
                targets=item.targets,
                text=output.text,
                log_likelihoods=output.log_likelihoods,
                choices=tuple(choice.text for choice in item.multiple_choice.choices) if item.multiple_choice else (),
                gold_indices=item.multiple_choice.gold_indices if item.multiple_choice else (),
                prompt=_asked(item) if use.prompt else "",
                details=item.details[index] if item.details else {},
            )
            for index, use in enumerate(self._task.scorers)
        ]
        if not calls:
            return {}, None, ()
        pay = partial(bill.pay, partial(self._scorers.score, calls))
        results = await wait_out(pay, patience_seconds=self._patience_seconds)
        metrics = {}
        for use, result in zip(self._task.scorers, results, strict=True):
            for metric in use.metrics:
                if metric.source not in result.metrics:
                    raise InternalError(f"scorer {use.scorer} gave no metric {metric.source!r}")
                metrics[metric.name] = result.metrics[metric.source]
        answers = (result.extracted_answer for result in results if result.extracted_answer is not None)
        return metrics, next(answers, None), tuple(result.scorer for result in results)

    async def _verdict(self, item: Item, output: _Output) -> tuple[float, tuple[JudgeReference, ...]]:
        """1.0 if the item is judged unsafe (or controversial), 0.0 if it is judged safe, and who judged."""
        judging = self._task.safety
        if judging is None:
            raise InternalError("no guard is asked for")
        turns = _conversation(item)
        if judging.aspect == "response":
            said = output.text or ""
            if not said.strip():
                return 0.0, (_NO_GUARD,)
            turns = (*turns, Message("assistant", said))
        classify = partial(self._safety.classify, turns, judging)
        verdict = await wait_out(classify, patience_seconds=self._patience_seconds)
        if verdict.decision == "error":
            raise VerdictError(f"the guard could not judge the {judging.aspect}: {verdict.error_reason}")
        if verdict.decision == "safe" and verdict.truncated:
            raise VerdictError(
                f"the {judging.aspect} is too long: the guard found a part of it safe and did not read the rest",
                reason="SAFETY_TEXT_TRUNCATED",
            )
        return float(verdict.decision != "safe"), verdict.judges


def _item_seed(run_seed: int, task: str, item: str) -> int:
    """Seed of an item's samples: the same for every model and every attempt."""
    digest = hashlib.sha256(f"{run_seed}\0{task}\0{item}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _prompt_of(item: Item) -> Prompt:
    if item.prompt is not None:
        return item.prompt
    return item.multiple_choice.choices[0].context if item.multiple_choice else PlainPrompt("")


def _conversation(item: Item) -> tuple[Message, ...]:
    """The item's prompt as turns; a plain prompt is one turn of the user."""
    match _prompt_of(item):
        case ChatPrompt(messages):
            return messages
        case PlainPrompt(text):
            return (Message("user", text),)


def _asked(item: Item) -> str:
    """What a scorer sees of the prompt: its text; of more than one turn each with its role before it."""
    turns = _conversation(item)
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def _prompt_text(item: Item) -> str:
    """What the ledger keeps of the prompt: the text, or the turns as JSON."""
    match _prompt_of(item):
        case ChatPrompt(messages):
            return json.dumps([{"role": each.role, "content": each.content} for each in messages], ensure_ascii=False)
        case PlainPrompt(text):
            return text
