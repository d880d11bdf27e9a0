"""The texts of the benchmark: held-out moderation and red-team texts, and the questions most traffic is made of."""

import csv
from collections.abc import Iterator
from pathlib import Path

from examples.guard_head.public_sets import xstest_responses
from examples.guard_head.splitting import Split


def texts_to_judge(data: Path, split: Split) -> list[str]:
    """Return distinct texts that neither guard was trained on.

    Args:
        data: folder of the public sets.
        split: of the embedded guard's texts.
    """
    texts = [each.text for each in (*split.test, *split.validation, *xstest_responses(data))]
    texts += [row[0] for file in sorted((data / "mmlu/test").glob("*.csv")) for row in _rows(file) if row]
    texts += [row[2] for row in list(_rows(data / "truthfulqa/TruthfulQA.csv"))[1:]]
    trained = {each.text for each in split.training}
    return [text for text in dict.fromkeys(texts) if text.strip() and text not in trained]


def _rows(file: Path) -> Iterator[list[str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.reader(stream)
