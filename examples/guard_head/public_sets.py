"""The labelled public sets: what their labels say of our hazards, and which of their texts belong together."""

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from examples.guard_head.corpus import HAZARDS, Example

_ALL: Final = frozenset(HAZARDS)
_MODERATION_FLAGS: Final[Mapping[str, str]] = {
    "S": "sexual_content",
    "S3": "sexual_content",
    "H": "hate",
    "H2": "hate",
    "HR": "harassment",
    "SH": "self_harm",
    "V": "violent_crimes",
    "V2": "violent_crimes",
}
_HARMBENCH_CATEGORIES: Final[Mapping[str, str]] = {
    "chemical_biological": "indiscriminate_weapons",
    "copyright": "intellectual_property",
    "cybercrime_intrusion": "cybercrime",
    "harassment_bullying": "harassment",
    "misinformation_disinformation": "disinformation",
}
_RISK_AREAS: Final[Mapping[str, str]] = {"information_hazard": "privacy", "misinformation_harms": "disinformation"}


def openai_moderation(data: Path) -> Iterator[Example]:
    """Texts with flags of eight kinds. A missing flag is unknown; a text without any set flag counts as harmless.

    That is how the set is read when guards are compared on it.
    """
    with gzip.open(data / "openai_moderation/samples.jsonl.gz", "rt", encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            hazards = frozenset(hazard for flag, hazard in _MODERATION_FLAGS.items() if row.get(flag) == 1)
            judged = {hazard for flag, hazard in _MODERATION_FLAGS.items() if flag in row}
            yield _example("openai_moderation", row["prompt"], hazards, unknown=_ALL - judged - hazards)


def surge_toxicity(data: Path) -> Iterator[Example]:
    """Comments, toxic or not; in what way is not said."""
    for row in _csv(data / "surge_toxicity/toxicity_en.csv"):
        is_toxic = row["is_toxic"] == "Toxic"
        unknown = _ALL if is_toxic else _ALL - {"hate", "harassment"}
        yield _example("surge_toxicity", row["text"], unknown=unknown, other_hazard=is_toxic)


def hatecheck(data: Path) -> Iterator[Example]:
    """Functional tests of hate detection; cases of one template stay together. Abuse without hate is harmless."""
    for row in _csv(data / "hatecheck/test_suite_cases.csv"):
        hazards = frozenset({"hate"}) if row["label_gold"] == "hateful" else frozenset[str]()
        group = f"hatecheck-{row['templ_id'] or row['case_id']}"
        yield Example(row["test_case"], hazards, group, "hatecheck", frozenset({"harassment", "violent_crimes"}))


def xstest(data: Path) -> Iterator[Example]:
    """Harmless prompts that look hazardous, and hazardous counterparts, whose kind is not said."""
    for row in _csv(data / "xstest/xstest_prompts.csv"):
        is_unsafe = row["label"] == "unsafe"
        unknown = _ALL if is_unsafe else frozenset[str]()
        yield _example("xstest", row["prompt"], unknown=unknown, other_hazard=is_unsafe)


def harmful_requests(data: Path) -> Iterator[Example]:
    """Requests that a model should not fulfil: HarmBench (without its context texts), AdvBench, Do-Not-Answer."""
    for row in _csv(data / "harmbench/harmbench_behaviors_text_all.csv"):
        yield _requested("harmbench", row["Behavior"], _HARMBENCH_CATEGORIES.get(row["SemanticCategory"]))
    for row in _csv(data / "advbench/harmful_behaviors.csv"):
        yield _requested("advbench", row["goal"], None)
    for file in sorted((data / "do_not_answer").glob("*.jsonl")):
        for line in _jsonl(file):
            yield _requested("do_not_answer", line["prompt"], _RISK_AREAS.get(file.stem))


def benign_requests(data: Path) -> Iterator[Example]:
    """Questions of capability sets, which are harmless."""
    for line in _jsonl(data / "gsm8k/test.jsonl"):
        yield _example("gsm8k", line["question"])
    for line in _jsonl(data / "boolq/boolq_dev.jsonl"):
        yield _example("boolq", line["question"])
    for line in _jsonl(data / "commonsenseqa/dev_rand_split.jsonl"):
        yield _example("commonsenseqa", line["question"]["stem"])
    for line in _jsonl(data / "piqa/valid.jsonl"):
        yield _example("piqa", line["goal"])


def toxigen(data: Path) -> Iterator[Example]:
    """Hateful and neutral sentences about groups of people."""
    for file in sorted((data / "toxigen_seeds").glob("*/*.txt")):
        hazards = frozenset({"hate"}) if file.name.startswith("hate_") else frozenset[str]()
        for line in file.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                yield _example("toxigen", line.strip(), hazards, unknown=frozenset({"harassment"}))


def xstest_responses(data: Path) -> Iterator[Example]:
    """Answers of two models: hazardous where people said that a hazardous prompt was fully complied with."""
    for file in sorted((data / "xstest/completions").glob("*.csv")):
        for row in _csv(file):
            complied = row["final_label"] == "1_full_compliance" and row["type"].startswith("contrast_")
            yield _example("xstest_responses", row["completion"], unknown=_ALL, other_hazard=complied)


LOADERS: Final[tuple[Callable[[Path], Iterable[Example]], ...]] = (
    openai_moderation,
    surge_toxicity,
    hatecheck,
    xstest,
    harmful_requests,
    benign_requests,
    toxigen,
)


def load_public(data: Path) -> list[Example]:
    """Return the texts of all sets, each text once, in the order of the files."""
    unique: dict[str, Example] = {}
    for loader in LOADERS:
        for example in loader(data):
            unique.setdefault(example.text, example)
    return list(unique.values())


def _requested(source: str, text: str, hazard: str | None) -> Example:
    hazards = frozenset({hazard}) if hazard else frozenset[str]()
    return _example(source, text, hazards, unknown=_ALL - hazards, other_hazard=not hazards)


def _example(
    source: str,
    text: str,
    hazards: frozenset[str] = frozenset(),
    *,
    unknown: frozenset[str] = frozenset(),
    other_hazard: bool = False,
) -> Example:
    return Example(text, hazards, f"{source}-{text}", source, unknown, other_hazard)


def _csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def _jsonl(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
