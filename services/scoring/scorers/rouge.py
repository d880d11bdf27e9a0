"""ROUGE, by rouge-score's definition."""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pydantic import Field

from services.runtime.errors import FieldViolation
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.errors import TextTooLongError
from services.scoring.lcs import lcs_length, lcs_positions
from services.scoring.requirements import require_targets, require_text
from services.scoring.text_limits import require_lengths

MAX_CHARACTERS = 100_000
MAX_SENTENCE_WORDS = 4_000_000
"""Words that ROUGE-Lsum may read, which compares every sentence of a target with every one of the text."""
MAX_WORD_PAIRS = 200_000_000
"""Words of a sentence of the text times those of one of a target: an eighth of it is bytes of memory."""
_TOKEN = re.compile("[a-z0-9]+")


class RougeParameters(ScorerParameters):
    """What of the overlap is returned."""

    measure: Literal["fmeasure", "precision", "recall"] = Field(
        "fmeasure",
        description="Which side counts: fmeasure, precision or recall. The target with the highest fmeasure is taken.",
    )


@dataclass(frozen=True, slots=True)
class _Overlap:
    precision: float
    recall: float

    @property
    def fmeasure(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


class Rouge:
    """Overlap of words, pairs of words and longest common subsequences with the accepted answers."""

    about = ScorerDescription(
        name="rouge",
        version="1",
        description="ROUGE as rouge-score 0.1.2 defines it, without stemming: words are runs of the letters a to z and "
        "of digits, in lower case, so that other scripts have none. For rougeLsum a line is a sentence. Of several "
        f"targets each metric takes the best. Texts and targets have at most {MAX_CHARACTERS} characters.",
        metrics=(
            MetricDescription("rouge1", "Overlap of words."),
            MetricDescription("rouge2", "Overlap of pairs of words."),
            MetricDescription("rougeL", "Longest common subsequence of words."),
            MetricDescription("rougeLsum", "Union of the longest common subsequences of sentences."),
        ),
        is_heavy=True,
    )
    parameters_type = RougeParameters

    def score(self, parameters: RougeParameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text; raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        require_lengths(self.about.name, text, targets, limit=MAX_CHARACTERS)
        overlaps = [_overlaps(target, text) for target in targets]
        metrics = {}
        for metric in self.about.metrics:
            best = max((each[metric.name] for each in overlaps), key=lambda overlap: overlap.fmeasure)
            metrics[metric.name] = float(getattr(best, parameters.measure))
        return Score(metrics, None)


def _overlaps(target: str, text: str) -> Mapping[str, _Overlap]:
    wanted, given = _tokens(target), _tokens(text)
    common = lcs_length(wanted, given)
    return {
        "rouge1": _of_ngrams(wanted, given),
        "rouge2": _of_ngrams(_pairs(wanted), _pairs(given)),
        "rougeL": _of_counts(common, len(wanted), len(given)),
        "rougeLsum": _of_sentences(_sentences(target), _sentences(text)),
    }


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _pairs(tokens: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(tokens))


def _sentences(text: str) -> list[list[str]]:
    return [tokens for line in text.split("\n") if (tokens := _tokens(line))]


def _of_ngrams(wanted: Sequence[Hashable], given: Sequence[Hashable]) -> _Overlap:
    return _of_counts((Counter(wanted) & Counter(given)).total(), len(wanted), len(given))


def _of_counts(common: int, wanted: int, given: int) -> _Overlap:
    return _Overlap(common / given if given else 0.0, common / wanted if wanted else 0.0)


def _of_sentences(wanted: Sequence[Sequence[str]], given: Sequence[Sequence[str]]) -> _Overlap:
    """Return ROUGE-Lsum's overlap: no word counts more often than both texts have it, as in ROUGE 1.5.5."""
    left_wanted = Counter(word for sentence in wanted for word in sentence)
    left_given = Counter(word for sentence in given for word in sentence)
    total_wanted, total_given = left_wanted.total(), left_given.total()
    if not total_wanted or not total_given:
        return _Overlap(0.0, 0.0)
    _require_little_work(wanted, given, len(wanted) * total_given + len(given) * total_wanted)
    hits = 0
    for sentence in wanted:
        positions: set[int] = set().union(*(lcs_positions(sentence, other) for other in given))
        for position in sorted(positions):
            word = sentence[position]
            if left_wanted[word] > 0 and left_given[word] > 0:
                hits += 1
                left_wanted[word] -= 1
                left_given[word] -= 1
    return _of_counts(hits, total_wanted, total_given)


def _require_little_work(wanted: Sequence[Sequence[str]], given: Sequence[Sequence[str]], words: int) -> None:
    pairs = max(map(len, wanted)) * max(map(len, given))
    if words > MAX_SENTENCE_WORDS or pairs > MAX_WORD_PAIRS:
        raise TextTooLongError(
            f"rougeLsum would read {words} words to compare all sentences (the limit is {MAX_SENTENCE_WORDS}), and "
            f"{pairs} pairs of words in the longest (the limit is {MAX_WORD_PAIRS}); a line is a sentence",
            metadata={"scorer": "rouge", "limit_words": str(MAX_SENTENCE_WORDS), "limit_pairs": str(MAX_WORD_PAIRS)},
            field_violations=(FieldViolation("text", "has too many or too long lines for this target"),),
        )
