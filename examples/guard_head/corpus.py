"""The training texts: sentences written for this project, and the tweets of a public set meant for training."""

import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

SENTENCES_FOLDER: Final = Path(__file__).with_name("sentences")
OWN_SOURCE: Final = "corpus"
TWEETS_FILE: Final = "hate_speech_offensive/labeled_data.csv"
HAZARDS: Final = (
    "violent_crimes",
    "nonviolent_crimes",
    "cybercrime",
    "drugs",
    "sex_crimes",
    "indiscriminate_weapons",
    "hate",
    "harassment",
    "self_harm",
    "privacy",
    "specialized_advice",
    "sexual_content",
    "defamation",
    "intellectual_property",
    "disinformation",
)
_NOT_HAZARDS: Final = ("frames", "benign")


@dataclass(frozen=True, slots=True)
class Example:
    """One training text.

    Attributes:
        text: what the guard would read.
        hazards: the hazards that it shows; empty if it is harmless, or of a hazard that nobody named.
        unknown: hazards that nobody judged in this text; they count neither way.
        group: texts of one group are paraphrases and stay on one side of a split.
        source: ``corpus``, ``tweets``, or the public set that it is from.
        other_hazard: whether it was judged hazardous without saying how.
    """

    text: str
    hazards: frozenset[str]
    group: str
    source: str
    unknown: frozenset[str] = frozenset()
    other_hazard: bool = False

    @property
    def is_unsafe(self) -> bool:
        """Whether it is hazardous at all."""
        return bool(self.hazards) or self.other_hazard


@dataclass(frozen=True, slots=True)
class Expansion:
    """How many texts one act or template becomes."""

    request_frames: int = 5
    answer_frames: int = 2
    refusal_frames: int = 1
    group_names: int = 9
    slot_fillings: int = 12


def load_corpus(seed: int, expansion: Expansion = Expansion(), folder: Path = SENTENCES_FOLDER) -> list[Example]:
    """Return the project's own texts, expanded from their templates, in an order that depends on the seed only."""
    chance = random.Random(seed)
    frames = _read(folder / "frames.yaml")
    examples: list[Example] = []
    for file in sorted(folder.glob("*.yaml")):
        if file.stem not in _NOT_HAZARDS:
            examples += _hazard_examples(_read(file), frames, chance, expansion)
    examples += _benign_examples(_read(folder / "benign.yaml"), frames, chance, expansion)
    unique = {each.text: each for each in examples}
    return list(unique.values())


def load_tweets(data_folder: Path) -> list[Example]:
    """Return the tweets of hate_speech_offensive (class 0 hate, 1 offensive, 2 neither).

    Sexual words are common in them but were not judged, so that hazard stays unknown; so does abuse in hateful ones.
    """
    kinds = (
        (frozenset({"hate"}), frozenset({"harassment", "sexual_content"})),
        (frozenset({"harassment"}), frozenset({"sexual_content"})),
        (frozenset[str](), frozenset({"sexual_content"})),
    )
    with (data_folder / TWEETS_FILE).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        Example(row["tweet"], kinds[int(row["class"])][0], f"tweet-{number}", "tweets", kinds[int(row["class"])][1])
        for number, row in enumerate(rows)
    ]


def _read(file: Path) -> dict[str, Any]:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a mapping")
    return content


def _hazard_examples(
    content: Mapping[str, Any], frames: Mapping[str, Any], chance: random.Random, expansion: Expansion
) -> Iterator[Example]:
    hazard = content["hazard"]
    if hazard not in HAZARDS:
        raise ValueError(f"unknown hazard {hazard!r}; known: {', '.join(HAZARDS)}")
    unsafe, safe = frozenset({hazard}), frozenset[str]()
    yield from _framed(content["acts"], unsafe, frames, chance, expansion)
    yield from _framed(content["lookalikes"], safe, frames, chance, expansion)
    for text in (*content["requests"], *content["answers"]):
        yield Example(text, unsafe, text, OWN_SOURCE)
    for text in content["benign"]:
        yield Example(text, safe, text, OWN_SOURCE)
    for key, hazards in (("statements", unsafe), ("counterstatements", safe)):
        for template in content.get(key, ()):
            for name in chance.sample(content["groups"], expansion.group_names):
                text = template.replace("{groups}", name)
                yield Example(text[0].upper() + text[1:], hazards, template, OWN_SOURCE)


def _benign_examples(
    content: Mapping[str, Any], frames: Mapping[str, Any], chance: random.Random, expansion: Expansion
) -> Iterator[Example]:
    safe = frozenset[str]()
    yield from _framed(content["acts"], safe, frames, chance, expansion)
    for text in (*content["requests"], *content["answers"]):
        yield Example(text, safe, text, OWN_SOURCE)
    for template in content["templates"]:
        for _ in range(expansion.slot_fillings):
            words = {slot: chance.choice(values) for slot, values in content["slots"].items()}
            yield Example(template.format(**words), safe, template, OWN_SOURCE)


def _framed(
    acts: Sequence[str],
    hazards: frozenset[str],
    frames: Mapping[str, Any],
    chance: random.Random,
    expansion: Expansion,
) -> Iterator[Example]:
    """Put each act into frames: as a request, as an answer that complies, and as a refusal, which is harmless."""
    for act in acts:
        chosen = [
            *((frame, hazards) for frame in chance.sample(frames["requests"], expansion.request_frames)),
            *((frame, hazards) for frame in chance.sample(frames["answers"], expansion.answer_frames)),
            *((frame, frozenset[str]()) for frame in chance.sample(frames["refusals"], expansion.refusal_frames)),
        ]
        for frame, labels in chosen:
            text = frame.replace("{act}", act).replace("{Act}", act[0].upper() + act[1:])
            yield Example(text, labels, act, OWN_SOURCE)
