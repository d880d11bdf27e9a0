"""Edit distance of a text to accepted answers."""

from collections.abc import Hashable, Sequence
from typing import Literal

from pydantic import Field

from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.requirements import require_targets, require_text
from services.scoring.text_limits import require_lengths

MAX_CHARACTERS = 100_000


class EditDistanceParameters(ScorerParameters):
    """What is counted as one edit, and what is ignored."""

    unit: Literal["characters", "words"] = Field(
        "characters", description="What one edit changes: characters (code points) or words (split at white space)."
    )
    strip: bool = Field(False, description="Drop white space around both texts first.")
    ignore_case: bool = Field(False, description="Compare in lower case.")


class EditDistance:
    """How little has to be changed to make an accepted answer of the text."""

    about = ScorerDescription(
        name="edit_distance",
        version="1",
        description="Levenshtein's distance (insertions, deletions and substitutions cost 1 each) to the nearest "
        "target, divided by the length of the longer of the two; two empty texts have distance 0. Texts and targets "
        f"have at most {MAX_CHARACTERS} characters.",
        metrics=(
            MetricDescription("edit_similarity", "1 minus the normalised distance."),
            MetricDescription(
                "edit_distance",
                "Normalised distance: 0 for equal texts, 1 if nothing is shared.",
                higher_is_better=False,
            ),
        ),
        libraries=("rapidfuzz",),
    )
    parameters_type = EditDistanceParameters

    def score(self, parameters: EditDistanceParameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text; the answer is the nearest target. Raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        require_lengths(self.about.name, text, targets, limit=MAX_CHARACTERS)
        # Here, so that a service that is never asked for it starts without it.
        from rapidfuzz.distance import Levenshtein

        edited = _units(parameters, text)
        distances = [Levenshtein.normalized_distance(edited, _units(parameters, target)) for target in targets]
        nearest = min(distances)
        return Score({"edit_similarity": 1.0 - nearest, "edit_distance": nearest}, targets[distances.index(nearest)])


def _units(parameters: EditDistanceParameters, text: str) -> Sequence[Hashable]:
    if parameters.strip:
        text = text.strip()
    if parameters.ignore_case:
        text = text.lower()
    return text if parameters.unit == "characters" else text.split()
