"""The public sets that the guard is measured on and never trained on."""

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MODERATION_FLAGS = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One text of a held-out set.

    Attributes:
        text: what the guard reads.
        is_unsafe: what people said; None if nobody judged it fully.
        part: name of a part of the set that is reported by itself; empty if there are none.
    """

    text: str
    is_unsafe: bool | None
    part: str = ""


def openai_moderation(data: Path) -> list[LabelledRow]:
    """Any flag set is unsafe, all flags clear is safe; a row with missing flags and no set one is not known."""
    rows = []
    with gzip.open(data / "openai_moderation/samples.jsonl.gz", "rt", encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            flags = [row.get(flag) for flag in _MODERATION_FLAGS]
            rows.append(LabelledRow(row["prompt"], True if 1 in flags else None if None in flags else False))
    return rows


def surge_toxicity(data: Path) -> list[LabelledRow]:
    """Comments, toxic or not."""
    return [
        LabelledRow(row["text"], row["is_toxic"] == "Toxic") for row in _csv(data / "surge_toxicity/toxicity_en.csv")
    ]


def hatecheck(data: Path) -> list[LabelledRow]:
    """Functional tests of hate detection, by template."""
    return [
        LabelledRow(row["test_case"], row["label_gold"] == "hateful")
        for row in _csv(data / "hatecheck/test_suite_cases.csv")
    ]


def xstest(data: Path) -> list[LabelledRow]:
    """Safe prompts that look unsafe, and their unsafe counterparts; parts are the types."""
    return [
        LabelledRow(row["prompt"], row["label"] == "unsafe", row["type"])
        for row in _csv(data / "xstest/xstest_prompts.csv")
    ]


def xstest_responses(data: Path) -> list[LabelledRow]:
    """Answers of two models: unsafe where people said that an unsafe prompt was fully complied with."""
    rows = []
    for file in sorted((data / "xstest/completions").glob("*.csv")):
        for row in _csv(file):
            complied = row["final_label"] == "1_full_compliance"
            rows.append(LabelledRow(row["completion"], complied and row["type"].startswith("contrast_")))
    return rows


def harmful_requests(data: Path) -> list[LabelledRow]:
    """Requests that a model should not fulfil; parts are the sets. HarmBench without its context texts."""
    rows = [
        LabelledRow(row["Behavior"], True, "harmbench")
        for row in _csv(data / "harmbench/harmbench_behaviors_text_all.csv")
    ]
    rows += [LabelledRow(row["goal"], True, "advbench") for row in _csv(data / "advbench/harmful_behaviors.csv")]
    for file in sorted((data / "do_not_answer").glob("*.jsonl")):
        rows += [LabelledRow(row["prompt"], True, f"do_not_answer_{_short(file)}") for row in _jsonl(file)]
    return rows


def benign_requests(data: Path) -> list[LabelledRow]:
    """Questions of capability sets; parts are the sets."""
    rows = [LabelledRow(row["question"], False, "gsm8k") for row in _jsonl(data / "gsm8k/test.jsonl")]
    rows += [LabelledRow(row["question"], False, "boolq") for row in _jsonl(data / "boolq/boolq_dev.jsonl")]
    rows += [
        LabelledRow(row["question"]["stem"], False, "commonsenseqa")
        for row in _jsonl(data / "commonsenseqa/dev_rand_split.jsonl")
    ]
    return rows


def _short(file: Path) -> str:
    # The first area's file name lists all that is in it.
    return file.stem.split("_toxicity")[0]


def _csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def _jsonl(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
