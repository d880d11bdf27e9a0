"""The texts of the benchmark: red-team and moderation sets, and the ordinary questions that most traffic is made of."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from examples.guard_head import held_out

_HELD_OUT: Final[tuple[Callable[[Path], list[held_out.LabelledRow]], ...]] = (
    held_out.openai_moderation,
    held_out.surge_toxicity,
    held_out.hatecheck,
    held_out.xstest,
    held_out.xstest_responses,
    held_out.harmful_requests,
    held_out.benign_requests,
)


def load_texts(data: Path) -> dict[str, list[str]]:
    """Return the distinct texts by set; none of them was trained on by any guard here.

    Args:
        data: folder of the public sets.
    """
    texts = {load.__name__: [row.text for row in load(data)] for load in _HELD_OUT}
    texts["mmlu_questions"] = [
        row[0] for file in sorted((data / "mmlu/test").glob("*.csv")) for row in _rows(file) if row
    ]
    texts["truthfulqa_questions"] = [row[2] for row in list(_rows(data / "truthfulqa/TruthfulQA.csv"))[1:]]
    seen: set[str] = set()
    distinct: dict[str, list[str]] = {}
    for name, each in texts.items():
        distinct[name] = [text for text in dict.fromkeys(each) if text.strip() and text not in seen]
        seen.update(each)
    return distinct


def _rows(file: Path) -> Iterator[list[str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.reader(stream)
