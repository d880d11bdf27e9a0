"""The scores of sacrebleu for one text, without the memory that it keeps of every text.

sacrebleu's tokenizers remember 65,536 texts each, whatever their length, and every metric object has tokenizers of its
own, so that in a service nothing would ever be found there again: the texts are forgotten after each score.
"""

from collections.abc import Sequence
from typing import Protocol


class _Score(Protocol):
    score: float


class _Metric(Protocol):
    def corpus_score(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> _Score: ...


def score_of_one(metric: _Metric, text: str, targets: Sequence[str]) -> float:
    """Return a metric's score of ``text`` with all ``targets`` as its references, from 0 to 1.

    It is sacrebleu's ``sentence_score``, which is a corpus of one, without its advice in the log.
    """
    try:
        score = metric.corpus_score([text], [[target] for target in targets]).score / 100
    finally:
        _forget(getattr(metric, "tokenizer", None))
    # Rounding may leave a perfect score a little above 1.
    return min(score, 1.0)


def _forget(tokenizer: object) -> None:
    for each in (tokenizer, getattr(tokenizer, "_post_tokenizer", None)):
        forget = getattr(vars(type(each)).get("__call__"), "cache_clear", None)
        if forget is not None:
            forget()
