"""A language model as the judge, by a rubric."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from services.runtime.errors import FieldViolation, FleetError
from services.runtime.usage import usage_of, with_usage
from services.scoring.contract import (
    MetricDescription,
    Output,
    Score,
    ScorerDescription,
    ScorerDetails,
    ScorerParameters,
    ScoringItem,
)
from services.scoring.details import require_details
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.judges.asking import Asking, Ballot, Vote, total
from services.scoring.judges.errors import JudgeNotNamedError
from services.scoring.judges.judge_model import Decoding, JudgePrompt, PromptFormat
from services.scoring.judges.library import RubricLibrary
from services.scoring.judges.rendering import TEMPLATE_VERSION, Section, render
from services.scoring.judges.rubric import Rubric
from services.scoring.judges.tallying import Tally, tally_pairs, tally_single
from services.scoring.requirements import require_prompt, require_targets, require_text
from services.scoring.text_limits import require_total_length

ModelName = Annotated[str, StringConstraints(pattern=r"^(models/)?[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$")]
MODELS = "models/"
MAX_CHARACTERS: Final = 500_000
"""Of all texts of an item together; some 125,000 tokens of English."""


class LlmJudgeParameters(ScorerParameters):
    """Who judges, by what, and how often each judge is asked."""

    decided_by_content: ClassVar[frozenset[str]] = frozenset({"judges"})
    judges: tuple[ModelName, ...] = Field(
        (), max_length=16, description="Models that judge, each with its own votes; absent: those of the service."
    )
    rubric: str = Field("quality", description="Name of the rubric: quality, correctness, preference, or your own.")
    criteria: str | None = Field(
        None, min_length=1, max_length=20_000, description="What to judge by, instead of the rubric's criteria."
    )
    scale: tuple[int, int] | None = Field(
        None, description="Lowest and highest score, within 0 and 9, instead of the rubric's; needs pass_from."
    )
    pass_from: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Lowest value that passes, instead of the rubric's; not of a pairwise one.",
    )
    votes: int = Field(1, ge=1, le=32, description="Answers of each judge; more than one needs a temperature above 0.")
    temperature: float = Field(0.0, ge=0, le=2, allow_inf_nan=False, description="Of each answer; 0 is greedy.")
    seed: int = Field(0, ge=0, le=2**31, description="Makes sampled votes repeatable.")
    max_tokens: int | None = Field(
        None, ge=1, le=32_768, description="Longest answer of a judge, instead of the rubric's."
    )
    format: PromptFormat = Field(
        "chat", description="chat: the checkpoint's chat template; plain: a text, for models without one."
    )
    probabilities: bool = Field(
        True, description="Also ask how likely each verdict was, for expected_score; a second, short request."
    )

    @field_validator("judges")
    @classmethod
    def _in_full(cls, judges: tuple[str, ...]) -> tuple[str, ...]:
        # A judge is the same by either name.
        return tuple(_full_name(each) for each in judges)

    @model_validator(mode="after")
    def _votes_differ(self) -> Self:
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("more than one vote of a judge needs a temperature above 0: greedy answers are all alike")
        if len(set(self.judges)) < len(self.judges):
            raise ValueError("a judge is named twice: give it more votes instead")
        return self


class LlmJudgeDetails(ScorerDetails):
    """What a judge compares with."""

    baseline: str | None = Field(None, description="The other response, for a pairwise rubric.")


class LlmJudge:
    """Implements ``AsyncScorer``: asks judges and counts their votes.

    Args:
        asking: asks them.
        library: the rubrics.
        default_judges: resource names of the judges of requests that name none.
    """

    about = ScorerDescription(
        name="llm_judge",
        version="1",
        description="Language models judge a response by a rubric: on a scale, with named verdicts, with reference "
        "answers (targets) in view, or against a baseline (the detail baseline), which is asked in both orders. A "
        "judge must end its answer with one line 'Verdict: …'; anything else fails with JUDGE_UNPARSABLE. All "
        f"texts have at most {MAX_CHARACTERS} characters together. The digest covers the rubric, the judges' weights "
        "and how they are asked.",
        metrics=(
            MetricDescription(
                "score", "Mean of the votes, from 0 (lowest verdict) to 1; of a comparison: wins and half the ties."
            ),
            MetricDescription(
                "expected_score", "The same from the verdicts' probabilities; absent where a judge gives none."
            ),
            MetricDescription("passed", "1 if more than half of the votes pass; of a comparison: are wins."),
            MetricDescription("agreement", "Share of pairs of votes that say the same; 1 for a single vote."),
            MetricDescription(
                "position_inconsistent",
                "Share of votes that the order of the responses changes; comparisons only.",
                higher_is_better=False,
            ),
            MetricDescription(
                "first_preferred",
                "Share of verdicts for what is shown first, ties half; 0.5 is fair; comparisons only.",
            ),
        ),
        details=LlmJudgeDetails,
        reads_prompt=True,
    )
    parameters_type = LlmJudgeParameters

    def __init__(self, asking: Asking, library: RubricLibrary, default_judges: Sequence[str] = ()) -> None:
        self._asking = asking
        self._library = library
        self._default_judges = tuple(_full_name(each) for each in default_judges)

    async def score(self, parameters: LlmJudgeParameters, item: ScoringItem, output: Output) -> Score:
        """Judge one text; raises what ``Scorer.score`` says, with what was spent in the error's metadata."""
        response = require_text(self.about.name, output)
        rubric = self._rubric(parameters)
        judges = parameters.judges or self._default_judges
        if not judges:
            raise JudgeNotNamedError
        orders = self._orders(rubric, item, response)
        decoding = Decoding(
            parameters.max_tokens or rubric.max_tokens, parameters.temperature, parameters.seed, parameters.votes
        )
        ballots = await self._ballots(parameters, rubric, judges, orders, decoding)
        pass_from = rubric.pass_from
        if pass_from is None:
            first, second = (_votes(ballots[index::2]) for index in (0, 1))
            tally = tally_pairs(first, second)
        else:
            tally = tally_single(rubric, _votes(ballots), pass_from=pass_from)
        return self._score(tally, ballots, rubric)

    def _score(self, tally: Tally, ballots: Sequence[Ballot], rubric: Rubric) -> Score:
        return Score(
            tally.metrics,
            " ".join(tally.votes),
            usage=total(ballots),
            cached=all(each.cached for each in ballots),
            decided_by=_digest([TEMPLATE_VERSION, rubric.digest, *(each.model_digest for each in ballots)]),
        )

    def _rubric(self, parameters: LlmJudgeParameters) -> Rubric:
        """Return the rubric with what the parameters change.

        Raises:
            NotFoundError: RUBRIC_NOT_FOUND.
            InvalidScoreRequestError: the changes do not fit it.
        """
        rubric = self._library.find(parameters.rubric)
        changes = {
            name: value
            for name in ("criteria", "scale", "pass_from")
            if (value := getattr(parameters, name)) is not None
        }
        if not changes:
            return rubric
        try:
            return Rubric.model_validate(rubric.model_dump() | changes)
        except ValidationError as error:
            problem = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
            raise InvalidScoreRequestError(
                self.about.name, *(FieldViolation(f"parameters.{name}", problem) for name in changes)
            ) from error

    def _orders(self, rubric: Rubric, item: ScoringItem, response: str) -> list[list[Section]]:
        """Return the sections of each prompt: one, or of a pairwise rubric two, the response first and second."""
        shown = [Section("prompt", require_prompt(self.about.name, item))]
        if rubric.reference == "required":
            require_targets(self.about.name, item)
        if rubric.reference != "none":
            shown += [Section("reference", each) for each in item.targets]
        baseline = require_details(self.about.name, item, LlmJudgeDetails).baseline
        sizes = {
            "text": len(response),
            "prompt": len(item.prompt),
            "targets": sum(map(len, item.targets)),
            "details.baseline": len(baseline or ""),
        }
        require_total_length(self.about.name, sizes, limit=MAX_CHARACTERS)
        if rubric.kind == "single":
            return [[*shown, Section("response", response)]]
        if baseline is None:
            raise InvalidScoreRequestError(
                self.about.name, FieldViolation("details.baseline", f"{rubric.name} compares: give the other response")
            )
        return [
            [*shown, Section("response_a", one), Section("response_b", other)]
            for one, other in ((response, baseline), (baseline, response))
        ]

    async def _ballots(
        self,
        parameters: LlmJudgeParameters,
        rubric: Rubric,
        judges: Sequence[str],
        orders: Sequence[Sequence[Section]],
        decoding: Decoding,
    ) -> list[Ballot]:
        """Return each judge's ballot on each order, judge by judge.

        All are waited for also when one fails: what the others cost is booked with the failure.
        """
        # In a thread: long texts that are full of brackets take a while.
        prompts = await asyncio.to_thread(_prompts, rubric, orders, parameters.format)
        outcomes = await asyncio.gather(
            *(
                self._asking.ask(judge, rubric, prompt, decoding, wants_likelihoods=parameters.probabilities)
                for judge in judges
                for prompt in prompts
            ),
            return_exceptions=True,
        )
        ballots = [each for each in outcomes if isinstance(each, Ballot)]
        failures = [each for each in outcomes if isinstance(each, BaseException)]
        if not failures:
            return ballots
        spent = sum((usage_of(each) for each in failures if isinstance(each, FleetError)), total(ballots))
        first = failures[0]
        raise with_usage(first, spent) if isinstance(first, FleetError) else first


def _prompts(rubric: Rubric, orders: Sequence[Sequence[Section]], prompt_format: PromptFormat) -> list[JudgePrompt]:
    return [JudgePrompt(render(rubric, sections), prompt_format) for sections in orders]


def _votes(ballots: Sequence[Ballot]) -> list[Vote]:
    return [vote for ballot in ballots for vote in ballot.votes]


def _full_name(model: str) -> str:
    return model if model.startswith(MODELS) else MODELS + model


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
