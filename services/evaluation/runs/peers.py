"""What a run needs of the four other services, as Protocols; `remote.py` speaks to the real ones over gRPC."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.evaluation.items import Message, Prompt
from services.evaluation.judging_specification import SafetyJudging, ScorerUse
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.drawings import Drawings
from services.evaluation.runs.model_changes import ModelContent
from services.evaluation.runs.outcome import ItemOutcome, JudgeReference
from services.runtime.errors import FleetError
from services.runtime.usage import Usage


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to generate; fields as in the generation service's SamplingParameters."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    sample_count: int = 1
    truncate_left: bool = False


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One answer of a model; the first of several carries the prompt's cost."""

    text: str
    usage: Usage
    model_digest: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class ContinuationScores:
    """Natural-log likelihoods of continuations and the tokens that they have, in their order."""

    log_likelihoods: tuple[float, ...]
    token_counts: tuple[int, ...]
    usage: Usage
    model_digest: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class ScorerCall:
    """One scorer applied to one output: generated text, the choices' log-likelihoods, or that of ``text``.

    ``unconditional`` are those without the question; empty if they are not known. ``token_count`` is of ``text`` where
    its likelihood is judged, the only one of ``log_likelihoods``. ``prompt`` is empty for a scorer that does not ask
    for it; ``details`` are its own.
    """

    scorer: str
    parameters: Mapping[str, Any]
    targets: tuple[str, ...] = ()
    text: str | None = None
    log_likelihoods: tuple[float, ...] | None = None
    choices: tuple[str, ...] = ()
    unconditional: tuple[float, ...] = ()
    token_count: int | None = None
    gold_indices: tuple[int, ...] = ()
    prompt: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredOutput:
    """What one scorer says, and what that cost where it asked models."""

    metrics: Mapping[str, float]
    extracted_answer: str | None
    scorer: JudgeReference
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class SafetyVerdict:
    """A decision on safety: ``safe``, ``unsafe``, ``controversial`` or ``error``.

    ``judges`` are the guards that judged and, where one was applied, the policy; ``usage`` is what they cost.
    """

    decision: str
    error_reason: str
    truncated: bool
    judges: tuple[JudgeReference, ...]
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class ItemKey:
    """An item's sample that the ledger has an outcome for, and where the item stood in the run's order."""

    task: str
    item: str
    sample: int
    failed: bool
    draw_index: int


@dataclass(frozen=True, slots=True)
class AppendReceipt:
    """What came of some outcomes.

    Attributes:
        appended: how many were new to the ledger.
        decisions: what is decided now in the drawings that they belong to.
        dropped: those that were not sent, since nobody waits for them any more.
        incarnation: of the ledger's database: another one may lack what was acknowledged before. Empty: not told.
    """

    appended: int
    decisions: Sequence[TaskDecision] = ()
    dropped: Sequence[ItemOutcome] = ()
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class TaskFindings:
    """What the outcomes of one task have cost together, and the estimate of each metric."""

    spent: Spend
    scores: Mapping[str, float]


class Generator(Protocol):
    """The generation service."""

    async def model_digest(self, model: str) -> str:
        """Content digest of a model; UnavailableError until it is known, NotFoundError or FailedPreconditionError."""
        ...

    async def model_content(self, model: str) -> ModelContent:
        """All digests of a model; raises as ``model_digest`` does."""
        ...

    async def generate(self, model: str, prompt: Prompt, options: GenerationOptions) -> Sequence[GeneratedText]:
        """``options.sample_count`` answers."""
        ...

    async def score(
        self, model: str, context: Prompt, continuations: Sequence[str], *, truncate_left: bool
    ) -> ContinuationScores:
        """Log-likelihoods of all continuations of one context."""
        ...


class SafetyJudge(Protocol):
    """The safety service."""

    async def classify(self, messages: Sequence[Message], judging: SafetyJudging) -> SafetyVerdict:
        """Judge the last of the turns; an error tells what was spent before it (``judging_bill``)."""
        ...

    async def check(self, judgings: Sequence[SafetyJudging]) -> None:
        """Raise NotFoundError or FailedPreconditionError if a named guard or policy cannot judge as asked."""
        ...


class ScorerPanel(Protocol):
    """The scoring service."""

    async def score(self, calls: Sequence[ScorerCall]) -> Sequence[ScoredOutput | FleetError]:
        """Apply all calls; for each, in their order, what it gave or why it gave nothing, which tells its cost, too."""
        ...

    async def check(self, uses: Sequence[ScorerUse]) -> None:
        """Find out whether tasks can be scored as they want to be.

        Raises:
            NotFoundError: there is no such scorer.
            FailedPreconditionError: SCORER_PARAMETERS_INVALID: it does not take such parameters.
        """
        ...


class Ledger(Protocol):
    """The aggregation service."""

    async def append(self, run: str, outcomes: Sequence[ItemOutcome]) -> AppendReceipt:
        """Store outcomes durably, idempotently."""
        ...

    async def findings(self, run: str) -> Mapping[str, TaskFindings]:
        """What a run has found about each task; empty for a run that it doesn't know."""
        ...

    def fenced(self, epoch: int) -> "Ledger":
        """The same ledger for the holder of a run's lease: it refuses what comes under an older one (LeaseLostError).

        Appending nothing shuts the older ones out.
        """
        ...

    def keys(self, run: str) -> AsyncIterator[ItemKey]:
        """Every outcome that the ledger has of a run; none for a run that it doesn't know."""
        ...


@dataclass(frozen=True, slots=True)
class Peers:
    """The four services that a run is made with."""

    generator: Generator
    safety: SafetyJudge
    scorers: ScorerPanel
    ledger: Ledger
    drawings: Drawings
