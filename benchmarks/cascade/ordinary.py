"""What most traffic is made of: prompts and answers of capability sets, and people's dialogues with an assistant."""

import csv
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_PROMPTS: Final = {
    "gsm8k/test.jsonl": "question",
    "boolq/boolq_dev.jsonl": "question",
    "piqa/valid.jsonl": "goal",
    "ifeval/input_data.jsonl": "prompt",
    "mbpp/mbpp.jsonl": "text",
    "humaneval/HumanEval.jsonl.gz": "prompt",
}
_ANSWERS: Final = {
    "gsm8k/test.jsonl": "answer",
    "gsm8k/train.jsonl": "answer",
    "boolq/boolq_dev.jsonl": "passage",
    "piqa/valid.jsonl": "sol1",
    "mbpp/mbpp.jsonl": "code",
    "humaneval/HumanEval.jsonl.gz": "canonical_solution",
}
_TURN: Final = re.compile(r"\n\n(?:Human|Assistant): ")


def questions(data: Path) -> list[str]:
    """Return the questions of MMLU and TruthfulQA, some of which look hazardous."""
    texts = [row[0] for file in sorted((data / "mmlu/test").glob("*.csv")) for row in _rows(file) if row]
    return texts + [row[2] for row in list(_rows(data / "truthfulqa/TruthfulQA.csv"))[1:]]


def chats(data: Path) -> list[str]:
    """Return the first turn of people and the first answer in dialogues of hh-rlhf, whose people provoke it."""
    rows = _json_lines(data / "hh_rlhf_harmless/test.jsonl.gz")
    return [turn for row in rows for turn in _TURN.split(row["chosen"])[1:3]]


def prompts(data: Path) -> Iterator[str]:
    """Yield the questions and instructions of twelve capability sets, without their choices."""
    yield from questions(data)
    for file, field in _PROMPTS.items():
        for row in _json_lines(data / file):
            yield row[field]
    for name in ("arc_challenge/ARC-Challenge-Dev", "arc_challenge/ARC-Challenge-Test", "commonsenseqa/dev_rand_split"):
        for row in _json_lines(data / f"{name}.jsonl"):
            yield row["question"]["stem"]
    for path in sorted((data / "bbh").glob("*.json")):
        for example in json.loads(path.read_text(encoding="utf-8"))["examples"]:
            yield example["input"]


def answers(data: Path) -> Iterator[str]:
    """Yield what is to be answered in capability sets, and other whole texts of theirs: stories and passages."""
    for file, field in _ANSWERS.items():
        for row in _json_lines(data / file):
            yield row[field]
    for row in _json_lines(data / "hellaswag/hellaswag_val.jsonl"):
        yield f"{row['ctx']} {row['endings'][row['label']]}"
    for cells in list(_rows(data / "truthfulqa/TruthfulQA.csv"))[1:]:
        yield cells[3]


def _json_lines(file: Path) -> Iterator[Any]:
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def _rows(file: Path) -> Iterator[list[str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.reader(stream)
