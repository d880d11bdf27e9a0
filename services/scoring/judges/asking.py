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
from services.runtime.places import Places
from services.runtime.usage import Meter, Usage, with_usage, without_usage
from services.scoring.judges.errors import JudgeUnparsableError, of_judge
from services.scoring.judges.judge_model import Decoding, JudgeModel, JudgePrompt, Likelihoods, SampledAnswer
from services.scoring.judges.known_answers import KnownAnswers, KnownVote, KnownVotes, Question
from services.scoring.judges.rubric import Rubric
from services.scoring.judges.verdicts import Statement, expected_value, read_verdict


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
                is_whole = _is_whole(rubric, known)
            except JudgeUnparsableError as error:
                raise with_usage(of_judge(error, model), known.usage.from_cache) from error
            if is_whole:
                return _ballot(model, rubric, question.judge.digest, known, known.usage.from_cache)
        async with self._places.place():
            return await self._computed(model, rubric, question, known)

    async def _computed(self, model: str, rubric: Rubric, question: Question, known: KnownVotes | None) -> Ballot:
        """Find out what is not known: the answers, or only likelihoods where the judge went away after them."""
        spent = Meter()
        try:
            if known is None:
                answers = await self._model.answer(model, question.prompt, question.decoding)
                # Under the digest of who answered: the name may have been given to another checkpoint a moment ago.
                question = replace(question, judge=replace(question.judge, digest=answers.model_digest))
                known = KnownVotes(tuple(KnownVote(each) for each in answers.answers), answers.usage)
                spent.add(answers.usage)
            else:
                spent.add(known.usage.from_cache)
            known = await self._completed(model, rubric, question, known, spent)
        except FleetError as error:
            raise with_usage(of_judge(error, model), spent.usage) from error
        return _ballot(model, rubric, question.judge.digest, known, spent.usage)

    async def _completed(
        self, model: str, rubric: Rubric, question: Question, known: KnownVotes, spent: Meter
    ) -> KnownVotes:
        """Return answers with the likelihoods that are wanted; what was paid for is kept whatever happens.

        Raises:
            JudgeUnparsableError: an answer is no verdict.
            FleetError: the judge went away.
        """
        votes = list(known.votes)
        found = Meter()
        try:
            statements = [_read(rubric, each.answer) for each in votes]
            for index, statement in enumerate(statements):
                if votes[index].log_likelihoods is None:
                    likelihoods = await self._likelihoods(model, question, statement, found)
                    votes[index] = replace(votes[index], log_likelihoods=likelihoods)
        finally:
            spent.add(found.usage)
            complete = KnownVotes(tuple(votes), known.usage + found.usage)
            await self._known.keep(question, complete.votes, complete.usage)
        return complete

    async def _likelihoods(
        self, model: str, question: Question, statement: Statement, spent: Meter
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


def _is_whole(rubric: Rubric, known: KnownVotes) -> bool:
    """Whether nothing is left to find out.

    Raises:
        JudgeUnparsableError: an answer is no verdict.
    """
    for each in known.votes:
        _read(rubric, each.answer)
    return all(each.log_likelihoods is not None for each in known.votes)


def _ballot(model: str, rubric: Rubric, digest: str, known: KnownVotes, usage: Usage) -> Ballot:
    votes = tuple(_vote(rubric, each) for each in known.votes)
    was_computed = usage.computed_prompt_tokens + usage.computed_completion_tokens > 0
    return Ballot(model, digest, votes, usage, cached=not was_computed)


def _read(rubric: Rubric, answer: SampledAnswer) -> Statement:
    return read_verdict(rubric, answer.text, is_complete=answer.is_complete)


def _vote(rubric: Rubric, vote: KnownVote) -> Vote:
    expected = expected_value(rubric, vote.log_likelihoods) if vote.log_likelihoods else None
    return Vote(_read(rubric, vote.answer).word, expected)


def _is_personal(error: BaseException) -> bool:
    """Whether a failure may concern only the caller that asked first, such as its deadline or its quota."""
    return isinstance(error, DeadlineExceededError | CancelledCallError | ResourceExhaustedError)


def total(ballots: Sequence[Ballot]) -> Usage:
    """Return what ballots cost together."""
    return sum((each.usage for each in ballots), Usage())
