"""chrF of one text, by sacrebleu."""

from pydantic import Field

from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.requirements import require_targets, require_text
from services.scoring.sacrebleu_scores import score_of_one
from services.scoring.text_limits import require_lengths

MAX_CHARACTERS = 100_000


class ChrfParameters(ScorerParameters):
    """sacrebleu's parameters of the same names."""

    char_order: int = Field(6, ge=1, le=10, description="Longest n-grams of characters.")
    word_order: int = Field(0, ge=0, le=4, description="Longest n-grams of words; 2 is chrF++.")
    beta: int = Field(2, ge=1, le=10, description="How many times as much recall counts as precision.")
    lowercase: bool = Field(False, description="Compare in lower case.")
    whitespace: bool = Field(False, description="White space is part of the n-grams of characters.")
    eps_smoothing: bool = Field(False, description="Smooth as chrF++.py, NLTK and Moses do.")


class Chrf:
    """Shared n-grams of characters with the accepted answer that is closest."""

    about = ScorerDescription(
        name="chrf",
        version="1",
        description="Sentence chrF as sacrebleu 2 computes it (sentence_chrf), divided by 100; chrF++ with word_order "
        "2. The best of several targets counts. The mean over items is no corpus chrF, which pools counts first. Texts "
        f"and targets have at most {MAX_CHARACTERS} characters.",
        metrics=(MetricDescription("chrf", "chrF from 0 to 1; sacrebleu prints it from 0 to 100."),),
        is_heavy=True,
        preloads=("sacrebleu.metrics.chrf",),
        libraries=("sacrebleu",),
    )
    parameters_type = ChrfParameters

    def score(self, parameters: ChrfParameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text; raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        require_lengths(self.about.name, text, targets, limit=MAX_CHARACTERS)
        # Here, because it takes a second to import and most services are never asked for it.
        from sacrebleu.metrics.chrf import CHRF

        metric = CHRF(
            char_order=parameters.char_order,
            word_order=parameters.word_order,
            beta=parameters.beta,
            lowercase=parameters.lowercase,
            whitespace=parameters.whitespace,
            eps_smoothing=parameters.eps_smoothing,
        )
        return Score({"chrf": score_of_one(metric, text, targets)}, None)
