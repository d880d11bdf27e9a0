"""What a scorer is given and what it gives back."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue

from services.runtime.usage import Usage


@dataclass(frozen=True, slots=True)
class TextOutput:
    """Generated text."""

    text: str


@dataclass(frozen=True, slots=True)
class ChoicesOutput:
    """Natural-log likelihood of each choice given its context, beside the choice's text without the delimiter.

    Attributes:
        unconditional: the same without the question, one a choice; empty if nobody asked.
    """

    log_likelihoods: tuple[float, ...]
    choices: tuple[str, ...]
    unconditional: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplesOutput:
    """Several generated texts of one item."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokensOutput:
    """Natural-log likelihood of each token of a text given those before it, or sums of several, beside the text.

    Attributes:
        token_count: of the text; ``None``: as many as there are likelihoods.
    """

    log_likelihoods: tuple[float, ...]
    text: str
    token_count: int | None = None


@dataclass(frozen=True, slots=True)
class VerdictOutput:
    """What the safety service said of an output.

    Attributes:
        decision: ``safe``, ``unsafe``, ``controversial`` or ``error``; what is not known is an error.
        error_reason: why it is an error; empty otherwise.
        is_truncated: only a part of the text was judged.
        is_partial: so it was, or one of several guards, or a part of a long text, was not judged: what was found is not
            all there may be.
        categories: codes of the categories, in the guard's taxonomy and in AILuminate's, that reached the threshold.
        has_unknown_category: the guard named a category that its taxonomy does not have.
        refusal: whether the response declines; ``None`` if the guard does not say.
    """

    decision: str
    error_reason: str = ""
    is_truncated: bool = False
    is_partial: bool = False
    categories: frozenset[str] = frozenset()
    has_unknown_category: bool = False
    refusal: bool | None = None


Output = TextOutput | ChoicesOutput | SamplesOutput | TokensOutput | VerdictOutput


@dataclass(frozen=True, slots=True)
class ScoringItem:
    """What is known of the question.

    Attributes:
        targets: accepted answers.
        gold_indices: the right choices, from 0.
        prompt: what the model was asked; empty where nobody told.
        details: what else a scorer needs to know, as the caller sent it; see ``details.require_details``.
    """

    targets: tuple[str, ...] = ()
    gold_indices: tuple[int, ...] = ()
    prompt: str = ""
    details: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer says.

    Attributes:
        metrics: value of each.
        extracted_answer: what was taken for the answer; ``None`` if nothing was.
        usage: what it cost, where models were asked.
        cached: models were asked, and nothing was computed for it.
        decided_by: names what decided it beside the scorer's code and parameters, such as the weights of a judge: a
            digest, which becomes a part of the reference's; empty if nothing else did.
    """

    metrics: Mapping[str, float]
    extracted_answer: str | None
    usage: Usage | None = None
    cached: bool = False
    decided_by: str = ""


@dataclass(frozen=True, slots=True)
class MetricDescription:
    """A metric of a scorer; its values lie in [0, 1] unless its description says otherwise."""

    name: str
    description: str
    higher_is_better: bool = True


class ScorerParameters(BaseModel):
    """Parameters of a scorer. Every field has a description; a default makes it optional.

    Attributes:
        added_later: parameters that came after the scorer's version. At their defaults they are no part of its digest,
            so that what was scored before stays comparable.
        decided_by_content: parameters that only name what ``Score.decided_by`` names by its content, such as models. In
            the digest they stand at their defaults, so that one thing has one digest by whatever name it goes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    added_later: ClassVar[frozenset[str]] = frozenset()
    decided_by_content: ClassVar[frozenset[str]] = frozenset()

    def unused_libraries(self) -> frozenset[str]:
        """Return those of the scorer's libraries that decide nothing with these parameters."""
        return frozenset()


class ScorerDetails(BaseModel):
    """What a scorer needs to know of each item. Every field has a description; a default makes it optional."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


ParametersT = TypeVar("ParametersT", bound=ScorerParameters)


@dataclass(frozen=True, slots=True)
class ScorerDescription:
    """What callers are told of a scorer.

    Attributes:
        name: unique among the scorers.
        version: raised whenever the same parameters may give another score.
        description: what it measures and where the definition comes from.
        metrics: what it returns, in that order.
        rules_digest: names the data that decides scores beside the code, such as a list of phrases; empty if none.
        libraries: names of the distributions whose code decides scores, too. Their versions are part of the digest, so
            that an upgrade does not mix results that differ.
        details: what it reads of ``ScoringItem.details``; ``None``: nothing, and details sent to it are refused.
        reads_prompt: whether it judges with ``ScoringItem.prompt`` in view, which is then required.
        is_heavy: one output may take tens of milliseconds of a processor, or hang, or use up memory. Such a scorer
            judges in a process of the pool, which is killed when the time is up; it must be picklable.
        preloads: names of modules that a heavy scorer imports only when it judges. The processes of the pool have them
            from the start, so that imports of seconds count against no output and are not repeated by replacements.
    """

    name: str
    version: str
    description: str
    metrics: tuple[MetricDescription, ...]
    rules_digest: str = ""
    details: type[ScorerDetails] | None = None
    reads_prompt: bool = False
    is_heavy: bool = False
    preloads: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


class Scorer(Protocol[ParametersT]):
    """A judge: a pure function of parameters, item and output, under a name and a version."""

    @property
    def about(self) -> ScorerDescription:
        """What callers are told of it."""
        ...

    @property
    def parameters_type(self) -> type[ParametersT]:
        """Validates and completes the parameters that a caller sends."""
        ...

    def score(self, parameters: ParametersT, item: ScoringItem, output: Output) -> Score:
        """Judge one output.

        Raises:
            FleetError: the output, the item or the log-likelihoods cannot be judged by this scorer.
        """
        ...


class AsyncScorer(Protocol[ParametersT]):
    """A judge that waits for something: a sandbox that runs a program, a model that is asked.

    Many of its items are judged at once, on the event loop: it must not compute there for long.
    """

    @property
    def about(self) -> ScorerDescription:
        """What callers are told of it."""
        ...

    @property
    def parameters_type(self) -> type[ParametersT]:
        """Validates and completes the parameters that a caller sends."""
        ...

    async def score(self, parameters: ParametersT, item: ScoringItem, output: Output) -> Score:
        """Judge one output, within ``deadlines.remaining_seconds``; cancelled when the time is up or the caller left.

        Raises:
            FleetError: the output or the item cannot be judged by this scorer, or not now.
        """
        ...


AnyScorer: TypeAlias = Scorer[Any] | AsyncScorer[Any]


def is_async(scorer: AnyScorer) -> bool:
    """Return whether a scorer is an ``AsyncScorer``."""
    return inspect.iscoroutinefunction(scorer.score)
