"""Outputs that an exact match judges, of which all sides must say the same."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

_NAMES = ("Paris", "Vienna", "Lima", "Oslo", "Accra", "Hanoi", "Quito", "Rabat")
_RIGHT_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text and its accepted answer, which differ in case and final punctuation where the text is right."""

    text: str
    target: str


def make_texts(count: int, seed: int = 7) -> list[ScoredText]:
    """Make texts of one to a dozen words, six in ten of them right; each occurs once."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        words = [rng.choice(_NAMES) for _ in range(rng.randint(0, 11))]
        target = " ".join([*words, str(number)])
        said = target if rng.random() < _RIGHT_SHARE else f"{target} {rng.choice(_NAMES)}"
        made.append(ScoredText(said.upper() + rng.choice(("", ".", "!")), target))
    return made


def write_texts(path: Path, texts: list[ScoredText]) -> None:
    """Write texts as JSON lines with ``text`` and ``target``."""
    with path.open("w", encoding="utf-8") as file:
        for each in texts:
            file.write(json.dumps({"text": each.text, "target": each.target}) + "\n")


def right_share(texts: list[ScoredText]) -> float:
    """Return the mean that every side must find."""
    return sum(each.text.rstrip(".!").lower() == each.target.lower() for each in texts) / len(texts)
