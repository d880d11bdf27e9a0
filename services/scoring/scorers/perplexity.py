"""How surprising a text is to a model: perplexity, bits per byte."""

import math
import re
from collections.abc import Sequence

from services.scoring.choices import check_log_likelihoods
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.requirements import require_tokens

_SPACE = re.compile(r"\s+")
_LARGEST_EXPONENT = math.log(1.7e308)


class PerplexityParameters(ScorerParameters):
    """There is nothing to set."""


class Perplexity:
    """The likelihood of a text a token, a byte, and a word."""

    about = ScorerDescription(
        name="perplexity",
        version="1",
        description="Of one text: what lm-evaluation-harness 0.4.13 calls bits_per_byte, byte_perplexity and "
        "word_perplexity (words are what white space separates), and the perplexity a token, which depends on the "
        "tokenizer. A corpus's are not means of these, but follow from the sums of nats, bytes, words and tokens. "
        "token_probability is 1 / token_perplexity, the one of these that lies in [0, 1].",
        metrics=(
            MetricDescription("token_probability", "Geometric mean of the tokens' probabilities."),
            MetricDescription("token_perplexity", "At least 1, without upper limit.", higher_is_better=False),
            MetricDescription("word_perplexity", "At least 1, without upper limit.", higher_is_better=False),
            MetricDescription("byte_perplexity", "At least 1, without upper limit.", higher_is_better=False),
            MetricDescription("bits_per_byte", "At least 0, without upper limit.", higher_is_better=False),
            MetricDescription("nats", "Minus the text's log-likelihood.", higher_is_better=False),
            MetricDescription("bytes", "Of the text in UTF-8."),
            MetricDescription("words", "What white space separates."),
            MetricDescription("tokens", "Of the text."),
        ),
    )
    parameters_type = PerplexityParameters

    def score(self, parameters: PerplexityParameters, item: ScoringItem, output: Output) -> Score:
        """Judge one text; raises what ``Scorer.score`` says. A token that is impossible makes infinities."""
        given = require_tokens(self.about.name, output)
        check_log_likelihoods(given.log_likelihoods, "token_scores.log_likelihoods")
        surprise = max(0.0, -_sum(given.log_likelihoods))
        size = len(given.text.encode())
        # As the harness counts words: white space at an end leaves an empty one.
        words = len(_SPACE.split(given.text))
        tokens = given.token_count or len(given.log_likelihoods)
        metrics = {
            "token_probability": math.exp(-surprise / tokens),
            "token_perplexity": _perplexity(surprise, tokens),
            "word_perplexity": _perplexity(surprise, words),
            "byte_perplexity": _perplexity(surprise, size),
            "bits_per_byte": surprise / size / math.log(2),
            "nats": surprise,
            "bytes": float(size),
            "words": float(words),
            "tokens": float(tokens),
        }
        return Score(metrics, None)


def _perplexity(surprise: float, units: int) -> float:
    exponent = surprise / units
    return math.exp(exponent) if exponent < _LARGEST_EXPONENT else math.inf


def _sum(log_likelihoods: Sequence[float]) -> float:
    try:
        return math.fsum(log_likelihoods)
    except OverflowError:
        return -math.inf
