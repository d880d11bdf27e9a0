"""A guard that is a language model: asked in its family's words, believed only where its answer is one of them."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.runtime.deadlines import child_timeout
from services.runtime.errors import DeadlineExceededError, FailedPreconditionError, FleetError
from services.runtime.usage import Meter, usage_of, with_usage
from services.safety.answer_cache import AnswerCache
from services.safety.combining import NOT_JUDGED, worst
from services.safety.errors import CALL_FAILURES, UnusableAnswerError
from services.safety.examination import Finding, RawAnswer, continuations, find
from services.safety.formats.guard_format import GuardFormat, Level, Question
from services.safety.judgement import NO_USAGE, CategoryScore, Decision, GuardDescription, JudgedTurn, Verdict
from services.safety.language_model import GeneratedAnswer, LanguageModel
from services.safety.long_turns import TOO_LONG, characters_of, divided
from services.safety.reading import is_unmapped
from services.safety.windows import MAX_WINDOWS

_DECISIONS: Final = {
    Level.SAFE: Decision.SAFE,
    Level.CONTROVERSIAL: Decision.CONTROVERSIAL,
    Level.UNSAFE: Decision.UNSAFE,
}


class GenerativeGuard:
    """Implements ``Guard`` on a ``LanguageModel``.

    Each question is answered greedily; the words that could stand where the verdict stands are then scored, which gives
    probabilities that a threshold can be applied to. The answer must be readable as well: a verdict that only the
    probabilities give is none.

    Args:
        about: what the guard is.
        model: answers.
        guard_format: how the model is asked and what it means.
        timeout_seconds: longest time of the requests about one turn.
        max_concurrent: most turns asked about at once, over all calls.
        cache: knows earlier answers; None for none.
    """

    def __init__(
        self,
        about: GuardDescription,
        model: LanguageModel,
        guard_format: GuardFormat,
        *,
        timeout_seconds: float,
        max_concurrent: int,
        cache: AnswerCache | None = None,
    ) -> None:
        self._about = about
        self._model = model
        self._format = guard_format
        self._timeout_seconds = timeout_seconds
        self._places = asyncio.Semaphore(max_concurrent)
        self._cache = cache

    @property
    def about(self) -> GuardDescription:
        """What it is and can do."""
        return self._about

    async def is_ready(self) -> bool:
        """Return whether the model takes requests."""
        return await self._model.is_ready()

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Judge turns side by side; only if none could be judged because the model is away does the call fail.

        A turn that the model's context has no room for is judged in windows: the worst one decides.
        """
        asked = [self._format.questions(turn) for turn in turns]
        known = await self._known(asked)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._judge_whole(*each)) for each in zip(turns, asked, known, strict=True)]
        outcomes = [task.result() for task in tasks]
        failures = [each for each in outcomes if isinstance(each, FleetError)]
        if failures and len(failures) == len(outcomes):
            raise with_usage(failures[0], sum(map(usage_of, failures), NO_USAGE))
        return [
            replace(self._error(turn, outcome.reason), usage=usage_of(outcome))
            if isinstance(outcome, FleetError)
            else outcome
            for turn, outcome in zip(turns, outcomes, strict=True)
        ]

    async def _judge_whole(
        self, turn: JudgedTurn, questions: Sequence[Question], known: Sequence[RawAnswer | None]
    ) -> Verdict | FleetError:
        """Return the verdict on a turn, or the error that says that nobody judged; either has what was spent."""
        spent = Meter()
        outcome = await self._judged(turn, questions, known, spent)
        if isinstance(outcome, FleetError):
            return with_usage(outcome, spent.usage)
        return replace(outcome, usage=spent.usage)

    async def _judged(
        self, turn: JudgedTurn, questions: Sequence[Question], known: Sequence[RawAnswer | None], spent: Meter
    ) -> Verdict | FleetError:
        """Return what becomes of a turn, in windows where it is too long."""
        outcome = await self._judge_one(turn, questions, known, spent)
        if not isinstance(outcome, _TooLong):
            return outcome
        pending = outcome.parts(turn, self._format)
        verdicts: list[Verdict] = []
        while pending:
            if len(verdicts) + len(pending) > MAX_WINDOWS:
                return self._error(turn, TOO_LONG)
            windows, pending = pending, []
            for window, said in zip(windows, await self._judge_windows(windows, spent), strict=True):
                if isinstance(said, FleetError):
                    return said
                if isinstance(said, Verdict):
                    verdicts.append(said)
                elif parts := said.parts(window, self._format):
                    pending += parts
                else:
                    verdicts.append(self._error(turn, TOO_LONG))
            if any(each.decision is Decision.UNSAFE for each in verdicts):
                break  # what is left can change nothing, unless a policy takes this back
        if not verdicts:
            return self._error(turn, TOO_LONG)
        whole = worst(verdicts)
        return replace(whole, unjudged_reason=whole.unjudged_reason or NOT_JUDGED) if pending else whole

    async def _judge_windows(
        self, windows: Sequence[JudgedTurn], spent: Meter
    ) -> "list[Verdict | FleetError | _TooLong]":
        asked = [self._format.questions(window) for window in windows]
        known = await self._known(asked)
        return await asyncio.gather(*map(self._judge_one, windows, asked, known, itertools.repeat(spent)))

    async def _known(self, asked: Sequence[Sequence[Question]]) -> list[list[RawAnswer | None]]:
        """Return what is known of each turn's questions; one lookup for all."""
        if self._cache is None:
            return [[None] * len(questions) for questions in asked]
        found = iter(await self._cache.find([question for questions in asked for question in questions]))
        return [[next(found) for _ in questions] for questions in asked]

    async def _judge_one(
        self, turn: JudgedTurn, questions: Sequence[Question], known: Sequence[RawAnswer | None], spent: Meter
    ) -> "Verdict | FleetError | _TooLong":
        """Return the verdict, the error that says that nobody judged, or that a prompt was too long."""
        async with self._places:
            budget = child_timeout(self._timeout_seconds)
            try:
                async with asyncio.timeout(budget):
                    answers = [
                        await self._examine(turn, question, answer, _Asking(budget, spent))
                        for question, answer in zip(questions, known, strict=True)
                    ]
                    return self._verdict(turn, questions, answers)
            except CALL_FAILURES as error:
                return error
            except (DeadlineExceededError, TimeoutError) as error:
                if budget < self._timeout_seconds:  # it was the caller's time that ran out
                    return (
                        error if isinstance(error, DeadlineExceededError) else DeadlineExceededError("no time is left")
                    )
                return self._error(turn, "GUARD_TIMEOUT")
            except UnusableAnswerError as error:
                return self._error(turn, error.reason)
            except FleetError as error:
                return _too_long(questions, error) if error.reason == TOO_LONG else self._error(turn, error.reason)

    async def _examine(
        self, turn: JudgedTurn, question: Question, known: RawAnswer | None, asking: "_Asking"
    ) -> tuple[Finding, bool]:
        """Return what the model says to a question, and whether that was known."""
        if known is not None:
            try:
                finding = self._read(turn, question, known)
            except UnusableAnswerError:
                pass  # kept by a release that read answers in another way: ask again
            else:
                asking.spent.add(known.usage)
                return finding, True
        generated = await self._model.answer(
            question.prompt,
            max_tokens=question.max_tokens,
            stop=question.stop,
            keep_special_tokens=question.keeps_special_tokens,
            timeout_seconds=asking.timeout_seconds,
        )
        asking.spent.add(generated.usage)
        try:
            return await self._understand(turn, question, generated, asking), False
        except UnusableAnswerError as error:
            if generated.lacks_room(question.max_tokens):
                raise _without_room(generated) from error
            raise

    async def _understand(
        self, turn: JudgedTurn, question: Question, generated: GeneratedAnswer, asking: "_Asking"
    ) -> Finding:
        """Return what a new answer says, and remember it if it can be used."""
        statement = self._format.read(generated.text, question, turn.aspect)
        likelihoods = await self._model.log_likelihoods(
            question.prompt, continuations(question, statement), timeout_seconds=asking.timeout_seconds
        )
        asking.spent.add(likelihoods.usage)
        usage = generated.usage + likelihoods.usage
        answer = RawAnswer(generated.text, generated.is_complete, likelihoods.values, usage=usage)
        finding = self._read(turn, question, answer)
        if self._cache is not None:
            await self._cache.keep(question, answer)
        return finding

    def _read(self, turn: JudgedTurn, question: Question, answer: RawAnswer) -> Finding:
        statement = self._format.read(answer.text, question, turn.aspect)
        if not answer.is_complete and statement.level is not Level.UNSAFE:
            # What was cut off could have taken it back.
            raise UnusableAnswerError("ANSWER_CUT_OFF")
        return find(statement, answer.log_likelihoods)

    def _verdict(
        self, turn: JudgedTurn, questions: Sequence[Question], answers: Sequence[tuple[Finding, bool]]
    ) -> Verdict:
        threshold = self._threshold(turn)
        findings = [finding for finding, _ in answers]
        named, scored = self._named(findings), self._scored(questions, findings)
        unmapped = any(is_unmapped(each.category) for each in named)
        level = Level.UNSAFE if unmapped else max(finding.level(threshold) for finding in findings)
        reached = [score for score, finding in scored if unmapped or finding.level(threshold) is not Level.SAFE]
        said = findings[0].statement
        return Verdict(
            decision=_DECISIONS[level],
            guard=self._about.reference,
            threshold=threshold,
            unsafe_probability=max(finding.unsafe_probability for finding in findings),
            categories=() if level is Level.SAFE else (*sorted(reached, key=_certainty, reverse=True), *named),
            unmapped=unmapped,
            refusal=said.refusal,
            over_refusal=said.over_refusal,
            cached=all(cached for _, cached in answers),
            all_scores=tuple(sorted((score for score, _ in scored), key=_certainty, reverse=True)),
        )

    def _named(self, findings: Sequence[Finding]) -> list[CategoryScore]:
        """Return the categories that the answers name; they come without probabilities."""
        codes = dict.fromkeys(code for finding in findings for code in finding.statement.codes)
        return [CategoryScore(self._format.taxonomy.category(code), None) for code in codes]

    def _scored(
        self, questions: Sequence[Question], findings: Sequence[Finding]
    ) -> list[tuple[CategoryScore, Finding]]:
        """Return the categories that were asked about one by one, with the probability of each."""
        return [
            (CategoryScore(self._format.taxonomy.category(question.category), finding.unsafe_probability), finding)
            for question, finding in zip(questions, findings, strict=True)
            if question.category
        ]

    def _error(self, turn: JudgedTurn, reason: str) -> Verdict:
        return Verdict(Decision.ERROR, self._about.reference, self._threshold(turn), error_reason=reason)

    def _threshold(self, turn: JudgedTurn) -> float | None:
        return self._about.default_threshold if turn.threshold is None else turn.threshold


@dataclass(frozen=True, slots=True)
class _Asking:
    """How long requests about a turn may take, and what counts up their cost."""

    timeout_seconds: float
    spent: Meter


@dataclass(frozen=True, slots=True)
class _TooLong:
    """A prompt of a turn was refused: by which counts, how many characters it had, and what its answer needs."""

    figures: Mapping[str, str]
    prompt_characters: int
    answer_tokens: int

    def parts(self, turn: JudgedTurn, guard_format: GuardFormat) -> list[JudgedTurn]:
        """Return shorter turns in place of the one that was refused; none if it cannot be made shorter."""
        return divided(
            turn,
            self.figures,
            questions=guard_format.questions,
            prompt_characters=self.prompt_characters,
            answer_tokens=self.answer_tokens,
        )


def _without_room(generated: GeneratedAnswer) -> FleetError:
    """Return the refusal of a prompt that fits, but leaves its answer too little room."""
    figures = {}
    if generated.prompt_tokens is not None and generated.answer_tokens is not None:
        figures["prompt_tokens"] = str(generated.prompt_tokens)
        figures["context_tokens"] = str(generated.prompt_tokens + generated.answer_tokens)
    return FailedPreconditionError("the prompt leaves its answer no room", reason=TOO_LONG, metadata=figures)


def _too_long(questions: Sequence[Question], error: FleetError) -> _TooLong:
    longest = max(questions, key=lambda question: characters_of(question.prompt))
    return _TooLong(error.metadata, characters_of(longest.prompt), longest.max_tokens)


def _certainty(score: CategoryScore) -> float:
    return score.probability or 0.0
