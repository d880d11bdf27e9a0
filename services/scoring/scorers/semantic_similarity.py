"""How close a text is in meaning to accepted answers, by a sentence encoder."""

import hashlib
from typing import Final

from pydantic import Field

from services.runtime.errors import FieldViolation
from services.runtime.usage import Usage
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.encoding.text_encoder import TextEncoder
from services.scoring.errors import InvalidScoreRequestError, TextTooLongError
from services.scoring.requirements import require_targets, require_text
from services.scoring.text_limits import require_lengths

MAX_CHARACTERS: Final = 200_000
_POOLING: Final = "windows weighted by tokens, 1"


class SemanticSimilarityParameters(ScorerParameters):
    """How much is read, and from where on two texts count as alike."""

    threshold: float | None = Field(
        None, ge=-1, le=1, description="Cosine from which the text counts as `similar`; absent: no such metric."
    )
    max_windows: int = Field(
        16, ge=1, le=256, description="Windows in which a long text is read; one that needs more fails."
    )


class SemanticSimilarity:
    """Compares by the cosine of two sentence embeddings.

    Args:
        encoder: makes vectors of texts.
    """

    about = ScorerDescription(
        name="semantic_similarity",
        version="1",
        description="Cosine between the sentence embeddings of the text and of the nearest target, as "
        "sentence-transformers computes it: mean of the encoder's last hidden states, divided by its length. The "
        "encoder is all-MiniLM-L6-v2 (English) unless the operator names another; its weights are part of the digest. "
        "A text longer than it reads at once is read in windows, whose vectors count by their tokens; one that needs "
        "more than max_windows fails. A text of white space alone is like nothing: 0.",
        metrics=(
            MetricDescription("similarity", "The cosine, or 0 where it is negative."),
            MetricDescription("cosine", "From -1 to 1."),
            MetricDescription("similar", "1 if the cosine is at least `threshold`; only if there is one."),
        ),
    )
    parameters_type = SemanticSimilarityParameters

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder

    async def score(self, parameters: SemanticSimilarityParameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text; the answer is the nearest target. Raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        blank = [index for index, target in enumerate(targets) if not target.strip()]
        if blank:
            raise InvalidScoreRequestError(
                self.about.name, *(FieldViolation(f"targets[{index}]", "is empty") for index in blank)
            )
        require_lengths(self.about.name, text, targets, limit=MAX_CHARACTERS)
        # Asked also about a text that is like nothing: without an encoder there is no score.
        encoded = await self._encoder.encode([text, *targets], max_windows=parameters.max_windows)
        names = ["text", *(f"targets[{index}]" for index in range(len(targets)))]
        self._require_whole([name for name, each in zip(names, encoded.texts, strict=True) if each.is_truncated])
        first, *others = [each.vector for each in encoded.texts]
        cosines = [min(1.0, max(-1.0, float(first @ other))) if text.strip() else 0.0 for other in others]
        nearest = max(cosines)
        tokens = sum(int(each.num_tokens.sum()) for each in encoded.texts)
        metrics = {"similarity": max(0.0, nearest), "cosine": nearest}
        if parameters.threshold is not None:
            metrics["similar"] = float(nearest >= parameters.threshold)
        return Score(
            metrics,
            targets[cosines.index(nearest)],
            usage=Usage(prompt_tokens=tokens, computed_prompt_tokens=tokens, engine_seconds=encoded.engine_seconds),
            decided_by=hashlib.sha256(f"{encoded.encoder_digest} {_POOLING}".encode()).hexdigest(),
        )

    def _require_whole(self, cut: list[str]) -> None:
        if cut:
            raise TextTooLongError(
                f"{self.about.name} does not compare parts of texts: {', '.join(cut)} needs more windows than "
                "max_windows allows",
                metadata={"scorer": self.about.name},
                field_violations=tuple(FieldViolation(name, "needs more windows than max_windows") for name in cut),
            )
