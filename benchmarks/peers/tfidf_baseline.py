"""TF-IDF with logistic regression, run in a peer's environment: texts and labels in, probabilities out (JSON lines).

Words and pairs of words, and characters inside words in threes to fives: the usual strong bag-of-words baseline.
"""

import json
import sys

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union


def main() -> None:
    """Fit on ``train`` ([text, label] pairs) and print the probability of each of ``test``."""
    asked = json.loads(sys.stdin.readline())
    texts, labels = zip(*asked["train"], strict=True)
    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2),
        ),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=2000),
    )
    model.fit(texts, labels)
    print(json.dumps(model.predict_proba(asked["test"])[:, 1].tolist()))


if __name__ == "__main__":
    main()
