"""What a model might answer, made from rows of the public sets: right, nearly right, wrong, and in other scripts."""

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CraftedOutput:
    """A text to judge and the answers that a row accepts."""

    text: str
    targets: tuple[str, ...]


def short_answers(data_dir: Path, *, every: int = 1) -> Iterator[CraftedOutput]:
    """Answers of a sentence (TruthfulQA), with six outputs each; of every so-manyth row."""
    with (data_dir / "truthfulqa" / "TruthfulQA.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))[::every]
    draws = random.Random(5)
    for row in rows:
        targets = tuple(answer.strip() for answer in row["Correct Answers"].split(";") if answer.strip())
        wrong = row["Incorrect Answers"].split(";")[0]
        for text in (*_variations(row["Best Answer"], draws), wrong, row["Question"]):
            yield CraftedOutput(text, targets)


def multilingual_answers(data_dir: Path, *, every: int = 1) -> Iterator[CraftedOutput]:
    """Sentences in ten languages (MultiJail), with four outputs each; of every so-manyth row."""
    with (data_dir / "multijail" / "MultiJail.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))[::every]
    draws = random.Random(6)
    for row in rows:
        for language in ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv"):
            for text in _variations(row[language], draws):
                yield CraftedOutput(text, (row[language],))


def long_answers(data_dir: Path, count: int) -> Iterator[CraftedOutput]:
    """Paragraphs (BoolQ's passages) as lines of sentences, with four outputs each."""
    with (data_dir / "boolq" / "boolq_dev.jsonl").open(encoding="utf-8") as file:
        passages = [
            json.loads(line)["passage"].replace(". ", ".\n") for _, line in zip(range(count), file, strict=False)
        ]
    draws = random.Random(7)
    for passage, other in zip(passages, [*passages[1:], passages[0]], strict=True):
        for text in (*_variations(passage, draws), other):
            yield CraftedOutput(text, (passage, other[: len(other) // 2]))


def _variations(text: str, draws: random.Random) -> tuple[str, ...]:
    words = text.split(" ")
    shuffled = draws.sample(words, len(words))
    kept = [word for word in words if draws.random() < 0.7]
    return f"  The {text.upper()}!\n", " ".join(shuffled), " ".join(kept), f"{text} {' '.join(kept)}"
