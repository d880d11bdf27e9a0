"""Asks one judge one question: from memory, or from its model, with what it cost either way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.runtime.cache.single_flight import SingleFlight
from services.runtime.errors import (
    CancelledCallError,
    DeadlineExceededError,
    FleetError,
    ResourceExhaustedError,
    UnavailableError,
)
from services.scoring.judges.errors import JudgeUnparsableError, of_judge, with_usage, without_usage
from services.scoring.judges.judge_model import Decoding, JudgeModel, JudgePrompt, Likelihoods, SampledAnswer
from services.scoring.judges.known_answers import KnownAnswers, KnownVote, Question
from services.scoring.judges.rubric import Rubric
from services.scoring.judges.verdicts import Statement, expected_value, read_verdict
from services.scoring.places import Places
from services.scoring.usage import Usage


@dataclass(frozen=True, slots=True)
class Vote:
    """One verdict of one judge.

    Attributes:
        word: the verdict.
        expected: mean value of the verdicts by their probabilities; ``None`` where there are none.
    """

    word: str
    expected: float | None


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one judge said to one question.

    Attributes:
        model: the judge's resource name.
        model_digest: of its content.
        votes: one a sample.
        usage: what this cost.
        cached: nothing was computed for it.
    """

    model: str
    model_digest: str
    votes: tuple[Vote, ...]
    usage: Usage
    cached: bool


@dataclass(slots=True)
class _Answered:
    """What became of a question that several may have asked.

    Attributes:
        outcome: the votes, or what went wrong for all of them.
        is_paid: one of them has what it cost on its account.
    """

    outcome: Ballot | FleetError
    is_paid: bool = False


class Asking:
    """Asks judges, each question once however many ask it at the same time.

    Args:
        model: the models.
        known: what was answered before.
        max_concurrent: most questions that are with the models at once; callers get these places in turn.
    """

    def __init__(self, model: JudgeModel, known: KnownAnswers, *, max_concurrent: int) -> None:
        self._model = model
        self._known = known
        self._places = Places(max_concurrent)
        self._flights: SingleFlight[tuple[bytes, str], _Answered] = SingleFlight(_is_personal)

    async def ask(
        self, model: str, rubric: Rubric, prompt: JudgePrompt, decoding: Decoding, *, wants_likelihoods: bool
    ) -> Ballot:
        """Return a judge's votes.

        Raises:
            JudgeUnparsableError: an answer is no verdict.
            FleetError: the judge could not be asked. What was spent before is in the metadata of either.
        """
        try:
            identity = await self._model.identity(model)
        except FleetError as error:
            raise of_judge(error, model) from error
        question = Question(identity, prompt, decoding, tuple(rubric.words), wants_likelihoods)
        # The rubric as well: in another one the same words may have other values.
        answered, _ = await self._flights.run(
            (question.key(), rubric.digest), lambda: self._outcome(model, rubric, question)
        )
        # Whoever comes first pays, which need not be who asked first: that one may have left.
        is_paid, answered.is_paid = answered.is_paid, True
        outcome = answered.outcome
        if isinstance(outcome, FleetError):
            raise without_usage(outcome) if is_paid else outcome
        if not is_paid:
            return outcome
        return Ballot(outcome.model, outcome.model_digest, outcome.votes, outcome.usage.from_cache, cached=True)

    async def _outcome(self, model: str, rubric: Rubric, question: Question) -> _Answered:
        """Return the votes, or what went wrong for all who ask this: a failure is paid for once, too."""
        try:
            return _Answered(await self._answered(model, rubric, question))
        except FleetError as error:
            if _is_personal(error):
                raise
            return _Answered(error)

    async def _answered(self, model: str, rubric: Rubric, question: Question) -> Ballot:
        known = await self._known.find(question)
        if known is not None:
            try:
                votes = [_vote(rubric, read_verdict(rubric, each.text, is_complete=True), each) for each in known.votes]
                return Ballot(model, question.judge.digest, tuple(votes), known.usage.from_cache, cached=True)
            except JudgeUnparsableError:
                pass  # kept by a release that read answers in another way: ask again
        async with self._places.place():
            return await self._computed(model, rubric, question)

    async def _computed(self, model: str, rubric: Rubric, question: Question) -> Ballot:
        spent = _Meter()
        try:
            answers = await self._model.answer(model, question.prompt, question.decoding)
            spent.add(answers.usage)
            statements = [_read(rubric, each) for each in answers.answers]
            # Under the digest of who answered: the name may have been given to another checkpoint a moment ago.
            answered = replace(question, judge=replace(question.judge, digest=answers.model_digest))
            read = [
                KnownVote(answer.text, await self._likelihoods(model, answered, statement, spent))
                for answer, statement in zip(answers.answers, statements, strict=True)
            ]
        except FleetError as error:
            raise with_usage(of_judge(error, model), spent.usage) from error
        await self._known.keep(answered, read, spent.usage)
        votes = tuple(_vote(rubric, statement, each) for statement, each in zip(statements, read, strict=True))
        was_computed = spent.usage.computed_prompt_tokens + spent.usage.computed_completion_tokens > 0
        return Ballot(model, answers.model_digest, votes, spent.usage, cached=not was_computed)

    async def _likelihoods(
        self, model: str, question: Question, statement: Statement, spent: "_Meter"
    ) -> tuple[float, ...]:
        """Return how likely each verdict was where one stands; () if nobody knows.

        Raises:
            UnavailableError: JUDGE_REPLACED: another model told than the one that had answered.
        """
        if not question.wants_likelihoods:
            return ()
        continuations = [statement.label + word for word in question.words]
        found: Likelihoods | None = await self._model.likelihoods(
            model, question.prompt, statement.reasons, continuations
        )
        if found is None:
            return ()
        spent.add(found.usage)
        if found.model_digest != question.judge.digest:
            raise UnavailableError("it was replaced while it judged; try again", reason="JUDGE_REPLACED")
        return found.values


class _Meter:
    """Sums up what was spent, also when what comes next fails."""

    def __init__(self) -> None:
        self.usage = Usage()

    def add(self, usage: Usage) -> None:
        self.usage += usage


def _read(rubric: Rubric, answer: SampledAnswer) -> Statement:
    return read_verdict(rubric, answer.text, is_complete=answer.is_complete)


def _vote(rubric: Rubric, statement: Statement, vote: KnownVote) -> Vote:
    expected = expected_value(rubric, vote.log_likelihoods) if vote.log_likelihoods else None
    return Vote(statement.word, expected)


def _is_personal(error: BaseException) -> bool:
    """Whether a failure may concern only the caller that asked first, such as its deadline or its quota."""
    return isinstance(error, DeadlineExceededError | CancelledCallError | ResourceExhaustedError)


def total(ballots: Sequence[Ballot]) -> Usage:
    """Return what ballots cost together."""
    return sum((each.usage for each in ballots), Usage())
