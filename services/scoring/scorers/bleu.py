"""BLEU of one text, by sacrebleu."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.requirements import require_targets, require_text
from services.scoring.sacrebleu_scores import score_of_one
from services.scoring.text_limits import require_lengths

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

MAX_CHARACTERS = 100_000


class BleuParameters(ScorerParameters):
    """sacrebleu's parameters of the same names."""

    tokenize: Literal["13a", "intl", "zh", "char", "none"] = Field(
        "13a", description="How words are told apart: 13a (WMT's), intl, zh, char or none (split at white space)."
    )
    smooth_method: Literal["exp", "floor", "add-k", "none"] = Field(
        "exp", description="What stands for n-grams that do not occur: exp, floor, add-k or none."
    )
    smooth_value: float | None = Field(None, ge=0, le=100, description="Value of floor and add-k; absent: 0.1 and 1.")
    lowercase: bool = Field(False, description="Compare in lower case.")
    max_ngram_order: int = Field(4, ge=1, le=8, description="Longest n-grams.")
    effective_order: bool = Field(
        True, description="Leave out orders of n-grams that a short text cannot have, as sacrebleu does for sentences."
    )

    def unused_libraries(self) -> frozenset[str]:
        """Return ``regex`` where words are not told apart by Unicode's properties."""
        return frozenset() if self.tokenize == "intl" else frozenset({"regex"})


class Bleu:
    """Shared n-grams with all accepted answers together."""

    about = ScorerDescription(
        name="bleu",
        version="1",
        description="Sentence BLEU as sacrebleu 2 computes it (sentence_bleu), divided by 100; the targets are the "
        "references of one text. The mean over items is no corpus BLEU, which pools counts before it divides. Texts "
        f"and targets have at most {MAX_CHARACTERS} characters.",
        metrics=(MetricDescription("bleu", "BLEU from 0 to 1; sacrebleu prints it from 0 to 100."),),
        is_heavy=True,
        preloads=("sacrebleu.metrics.bleu",),
        libraries=("regex", "sacrebleu"),
    )
    parameters_type = BleuParameters

    def score(self, parameters: BleuParameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text; raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        require_lengths(self.about.name, text, targets, limit=MAX_CHARACTERS)
        return Score({"bleu": score_of_one(_metric(parameters), text, targets)}, None)


def _metric(parameters: BleuParameters) -> "BLEU":
    # Here, because it takes a second to import and most services are never asked for it.
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(
        lowercase=parameters.lowercase,
        tokenize=parameters.tokenize,
        smooth_method=parameters.smooth_method,
        smooth_value=parameters.smooth_value,
        max_ngram_order=parameters.max_ngram_order,
        effective_order=parameters.effective_order,
    )
