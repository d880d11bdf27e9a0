"""Do our filters and our exact match find what lm-evaluation-harness finds? Judges the same outputs with both.

    python -m benchmarks.scorer_parity --json benchmarks/results/scorer_parity.json

The outputs are made from the public rows under EVALFLEET_DATA_DIR: GSM8K's worked solutions, MGSM's questions in their
languages and BBH's answers, each as it is and spoilt in several ways, three samples an item. The harness runs its own
filters and its own metric, from an environment of its own under .peers/.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import ROOT, lm_eval_python
from benchmarks.report import installed_versions, write_result
from services.scoring.contract import SamplesOutput, ScoringItem
from services.scoring.registry import ScorerRegistry, builtin_scorers

_STRICT = {"function": "regex", "regex_pattern": r"#### (\-?[0-9\.\,]+)"}
_FLEXIBLE = {"function": "regex", "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "group_select": -1}
_FIRST = {"function": "take_first"}
_CASE = {"ignore_case": True}

PIPELINES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "gsm8k_strict": ([_STRICT, _FIRST], {**_CASE, "regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"]}),
    "gsm8k_flexible": ([_FLEXIBLE, _FIRST], {**_CASE, "regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"]}),
    "letters": ([{"function": "lowercase"}, {"function": "remove_whitespace"}, _FIRST], {"ignore_punctuation": True}),
    "capitals": ([{"function": "uppercase"}, _FIRST], {"ignore_case": True, "ignore_numbers": True}),
    "words": ([{"function": "regex", "regex_pattern": r"(\w+)\W*$", "group_select": -1}, _FIRST], _CASE),
    "votes": ([_FLEXIBLE, {"function": "majority_vote"}, _FIRST], _CASE),
    "table": (
        [
            {"function": "remove_whitespace"},
            {"function": "map", "mapping_dict": {"TRUE": "True", "YES": "Yes"}, "default_value": "No"},
            _FIRST,
        ],
        {},
    ),
}
"""Name: the harness's filters, and its metric's parameters."""


def main() -> int:
    """Judge, compare, print and write the result; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    arguments = parser.parse_args()
    data = Path(os.environ.get("EVALFLEET_DATA_DIR") or ROOT.parent / "shared" / "data")
    items = list(_items(data))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.json", Path(folder) / "theirs.json"
        ours.write_text(json.dumps([judged for name in PIPELINES for judged in _judge_all(name, items)]))
        command = [lm_eval_python(), Path(__file__).with_name("scorer_parity_peer.py"), ours, theirs]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(command, check=True, env={**environment, "HF_HUB_OFFLINE": "1"})
        compared = json.loads(theirs.read_text())
    figures: dict[str, float] = {}
    for name, counts in compared["pipelines"].items():
        figures |= {f"{name}_{key}": counts[key] for key in ("equal", "different", "right")}
        print(f"{name:20} {counts['equal']:6} equal {counts['different']:5} different, {counts['right']:5} right")
        print(*counts["examples"], sep="\n", end="")
    different = sum(counts["different"] for counts in compared["pipelines"].values())
    figures["different_scores"] = different
    if arguments.json:
        versions = {**installed_versions("regex"), **compared["versions"]}
        notes = ["Equal: the answer that the filters leave and the score are the same. Right: scored 1 by both."]
        write_result(arguments.json, "scorer_parity", figures=figures, versions=versions, notes=notes)
    return 1 if different else 0


def _judge_all(pipeline: str, items: Iterable[tuple[tuple[str, ...], str]]) -> Iterator[dict[str, Any]]:
    filters, parameters = PIPELINES[pipeline]
    bound = ScorerRegistry(builtin_scorers()).bind("scorers/exact_match", {"filters": filters, **parameters})
    for samples, target in items:
        score = bound.score(ScoringItem(targets=(target,)), SamplesOutput(samples))
        yield {
            "pipeline": pipeline, "filters": filters, "parameters": parameters, "samples": samples, "target": target,
            "answer": score.extracted_answer, "value": score.metrics["exact_match"],
        }  # fmt: skip


def _items(data: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    draws = random.Random(11)
    for text, target in _rows(data):
        outputs = [text, target, *_spoilt(text, draws), *_spoilt(target, draws)]
        for output in outputs:
            yield (output, *draws.sample(outputs, 2)), target


def _rows(data: Path) -> Iterator[tuple[str, str]]:
    for line in (data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()[:150]:
        row = json.loads(line)
        yield row["answer"], row["answer"]
    for path in sorted((data / "mgsm").glob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            for question, answer in list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[:15]:
                yield f"{question} {answer}", answer
    for path in sorted((data / "bbh").glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["examples"][:40]:
            yield f"{row['input']}\nSo the answer is {row['target']}.", row["target"]


def _spoilt(text: str, draws: random.Random) -> list[str]:
    words = text.split(" ")
    start = draws.randrange(len(text) + 1)
    return [f" {text.upper()}\n", f"{text}.", text[:start], text[start:], " ".join(draws.sample(words, len(words)))]


if __name__ == "__main__":
    sys.exit(main())
