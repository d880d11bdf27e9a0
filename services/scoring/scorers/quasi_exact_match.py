"""Exact match after normalisation, by HELM's definition."""

from pydantic import Field

from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.normalisation import squad_normalised
from services.scoring.requirements import require_targets, require_text


class QuasiExactMatchParameters(ScorerParameters):
    """What is left alone when texts are normalised."""

    keep_articles: bool = Field(
        False, description="Do not drop a, an and the: HELM's quasi_leave_articles_exact_match."
    )


class QuasiExactMatch:
    """1 if the text equals an accepted answer once both are normalised."""

    about = ScorerDescription(
        name="quasi_exact_match",
        version="1",
        description="Exact match after HELM's normalisation, which is SQuAD's: lower case, without ASCII punctuation, "
        "without the articles a, an, the, and with single spaces. An empty text matches nothing, as in HELM; the best "
        "of several targets counts.",
        metrics=(
            MetricDescription("quasi_exact_match", "1 if the normalised text equals a normalised target, else 0."),
            MetricDescription(
                "quasi_prefix_exact_match",
                "1 if the normalised text begins with a normalised target; one of articles and punctuation alone "
                "begins every text that is not empty, as in HELM.",
            ),
        ),
    )
    parameters_type = QuasiExactMatchParameters

    def score(self, parameters: QuasiExactMatchParameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text; the answer is the normalised text. Raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        answer = squad_normalised(text, keep_articles=parameters.keep_articles)
        accepted = [squad_normalised(target, keep_articles=parameters.keep_articles) for target in targets]
        metrics = {
            "quasi_exact_match": float(bool(text) and answer in accepted),
            "quasi_prefix_exact_match": float(bool(text) and any(answer.startswith(target) for target in accepted)),
        }
        return Score(metrics, answer)
