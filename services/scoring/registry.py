"""The scorers by name, and scorers bound to parameters."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from services.runtime.errors import FailedPreconditionError, FieldViolation, StartupError, not_found
from services.sandbox.choosing import NoSandbox
from services.sandbox.contract import Sandbox
from services.scoring.contract import (
    AnyScorer,
    AsyncScorer,
    Output,
    Score,
    Scorer,
    ScorerParameters,
    ScoringItem,
    is_async,
)
from services.scoring.details import refuse_details
from services.scoring.errors import InvalidScorerNameError
from services.scoring.libraries import library_version
from services.scoring.parameters import parse_parameters
from services.scoring.scorers.bbq_bias import BbqBias
from services.scoring.scorers.bleu import Bleu
from services.scoring.scorers.choice_probabilities import ChoiceProbabilities
from services.scoring.scorers.chrf import Chrf
from services.scoring.scorers.code_execution import CodeExecution
from services.scoring.scorers.contains import Contains
from services.scoring.scorers.edit_distance import EditDistance
from services.scoring.scorers.exact_match import ExactMatch
from services.scoring.scorers.ifeval import Ifeval
from services.scoring.scorers.json_schema import JsonSchema
from services.scoring.scorers.math_equivalence import MathEquivalence
from services.scoring.scorers.multiple_choice import MultipleChoice
from services.scoring.scorers.numeric_answer import NumericAnswer
from services.scoring.scorers.perplexity import Perplexity
from services.scoring.scorers.quasi_exact_match import QuasiExactMatch
from services.scoring.scorers.refusal import Refusal
from services.scoring.scorers.refusal_verdict import RefusalVerdict
from services.scoring.scorers.regex_match import RegexMatch
from services.scoring.scorers.rouge import Rouge
from services.scoring.scorers.token_f1 import TokenF1
from services.scoring.scorers.unsafe_verdict import UnsafeVerdict

COLLECTION = "scorers/"
SHARED_CODE_VERSION = "1"
"""Raised when code that scorers share (extraction, filters, normalisation, numbers, patterns, …) may change a score."""


@dataclass(frozen=True, slots=True)
class ScorerReference:
    """Which exact scorer judged: resource name, version, and SHA-256 (hex) over all that decides its scores."""

    name: str
    version: str
    digest: str

    def with_judges(self, decided_by: str) -> "ScorerReference":
        """The same scorer where more decided than its code and parameters; see ``Score.decided_by``."""
        if not decided_by:
            return self
        digest = hashlib.sha256(f"{self.digest}:{decided_by}".encode()).hexdigest()
        return ScorerReference(self.name, self.version, digest)


@dataclass(frozen=True, slots=True)
class BoundScorer:
    """A scorer with checked parameters.

    Attributes:
        scorer: what judges.
        parameters: checked, with defaults.
        reference: which exact scorer this is.
        is_async: ``score_async`` judges, and not ``score``.
    """

    scorer: AnyScorer
    parameters: ScorerParameters
    reference: ScorerReference
    is_async: bool

    @property
    def is_heavy(self) -> bool:
        """Whether to judge in a process that can be killed."""
        return self.scorer.about.is_heavy

    def score(self, item: ScoringItem, output: Output) -> Score:
        """Judge one output; raises what ``Scorer.score`` says, and refuses details that the scorer does not read."""
        self._refuse_unread_details(item)
        return cast(Scorer[Any], self.scorer).score(self.parameters, item, output)

    async def score_async(self, item: ScoringItem, output: Output) -> Score:
        """Judge one output, as ``score`` does, of a scorer that waits."""
        self._refuse_unread_details(item)
        return await cast(AsyncScorer[Any], self.scorer).score(self.parameters, item, output)

    def _refuse_unread_details(self, item: ScoringItem) -> None:
        if item.details and self.scorer.about.details is None:
            refuse_details(self.scorer.about.name, item.details)


@dataclass(frozen=True, slots=True)
class BrokenScorer:
    """A scorer that should be there and cannot be used.

    Attributes:
        name: as its callers know it.
        origin: what brought it.
        problem: why it cannot be used.
    """

    name: str
    origin: str
    problem: str


class ScorerRegistry:
    """Finds scorers by resource name.

    Args:
        scorers: all that can be used.
        broken: those of which callers are told why they cannot be.

    Raises:
        StartupError: two scorers have the same name.
    """

    def __init__(self, scorers: Iterable[AnyScorer], broken: Iterable[BrokenScorer] = ()) -> None:
        self._scorers: dict[str, AnyScorer] = {}
        for scorer in scorers:
            name = scorer.about.name
            if name in self._scorers:
                raise StartupError(
                    f"two scorers are called {name!r}: {_class_of(self._scorers[name])} and {_class_of(scorer)}; "
                    "uninstall the plug-in of one of them",
                    reason="SCORER_NAME_TAKEN",
                    metadata={"scorer": name},
                )
            self._scorers[name] = scorer
        self._broken = {each.name: each for each in broken}

    @property
    def scorers(self) -> tuple[AnyScorer, ...]:
        """All of them, ordered by name."""
        return tuple(self._scorers[name] for name in sorted(self._scorers))

    def find(self, name: str) -> AnyScorer:
        """Return the scorer with resource name ``scorers/{scorer}``.

        Raises:
            InvalidScorerNameError: it is no resource name.
            NotFoundError: suggests the nearest names.
            FailedPreconditionError: SCORER_BROKEN: it is a plug-in that cannot be used.
        """
        scorer = name.removeprefix(COLLECTION)
        if scorer == name:
            raise InvalidScorerNameError(
                f"{name!r} is not the name of a scorer; it looks like {COLLECTION}exact_match",
                metadata={"name": name},
                field_violations=(FieldViolation("scorer", f"write {COLLECTION}{{scorer}}"),),
            )
        if scorer not in self._scorers and scorer in self._broken:
            broken = self._broken[scorer]
            raise FailedPreconditionError(
                f"the scorer {scorer!r} of {broken.origin} cannot be used here: {broken.problem}",
                reason="SCORER_BROKEN",
                metadata={"scorer": scorer, "origin": broken.origin},
            )
        if scorer not in self._scorers:
            raise not_found("scorer", scorer, self._scorers)
        return self._scorers[scorer]

    def bind(self, name: str, parameters: Mapping[str, object]) -> BoundScorer:
        """Find a scorer and check its parameters.

        Raises:
            InvalidScorerNameError: not ``scorers/{scorer}``.
            NotFoundError: no such scorer.
            InvalidScoreRequestError: wrong parameters.
        """
        scorer = self.find(name)
        checked = parse_parameters(scorer.about.name, scorer.parameters_type, parameters)
        return BoundScorer(scorer, checked, reference_of(scorer, checked), is_async(scorer))


def _class_of(scorer: AnyScorer) -> str:
    inner = getattr(scorer, "inner", scorer)
    return f"{type(inner).__module__}.{type(inner).__qualname__}"


def builtin_scorers(sandbox: Sandbox | None = None) -> tuple[AnyScorer, ...]:
    """Return the scorers that this service has.

    Args:
        sandbox: what programs are run in; without one they are not run.
    """
    return (
        BbqBias(),
        Bleu(),
        ChoiceProbabilities(),
        Chrf(),
        CodeExecution(sandbox or NoSandbox()),
        Contains(),
        EditDistance(),
        ExactMatch(),
        Ifeval(),
        JsonSchema(),
        MathEquivalence(),
        MultipleChoice(),
        NumericAnswer(),
        Perplexity(),
        QuasiExactMatch(),
        Refusal(),
        RefusalVerdict(),
        RegexMatch(),
        Rouge(),
        TokenF1(),
        UnsafeVerdict(),
    )


def reference_of(scorer: AnyScorer, parameters: ScorerParameters) -> ScorerReference:
    """Name the exact scorer.

    The digest covers parameters with their defaults filled in, so leaving one out and giving its default are the same,
    and the versions of the libraries that decide with these parameters.
    """
    about = scorer.about
    decisive: dict[str, object] = {
        "name": about.name,
        "version": about.version,
        "rules": about.rules_digest,
        "shared_code": SHARED_CODE_VERSION,
        "parameters": _decisive_parameters(parameters),
    }
    # Scorers that need none keep the digest that they had before libraries were part of it.
    if used := frozenset(about.libraries) - parameters.unused_libraries():
        decisive["libraries"] = {name: library_version(name) for name in sorted(used)}
    canonical = json.dumps(decisive, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return ScorerReference(COLLECTION + about.name, about.version, hashlib.sha256(canonical.encode()).hexdigest())


def _decisive_parameters(parameters: ScorerParameters) -> dict[str, object]:
    fields = type(parameters).model_fields
    named = {name: fields[name].get_default() for name in parameters.decided_by_content}
    return {
        name: value
        for name, value in parameters.model_copy(update=named).model_dump(mode="json").items()
        if name not in parameters.added_later or getattr(parameters, name) != fields[name].get_default()
    }
