"""The harness's half of prompt_parity: reads the same files, renders with lm-evaluation-harness, compares.

Runs in the harness's own environment and imports nothing of ours. Rows are brought into the columns of the hub data set
that the harness reads, which is then given to it instead of a download.

    python prompt_parity_peer.py DATA_FOLDER OURS_JSON RESULT_JSON
"""

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import evaluate
import lm_eval.api.metrics
import lm_eval.api.samplers
import lm_eval.api.task
from lm_eval.tasks import TaskManager

# What lm_eval's engines generate at most when a task does not say.
DEFAULT_MAX_TOKENS = 256

_EXAMPLES = "examples"
"""Rows that stand for the harness's own examples, where those are not in our files."""

Row = dict[str, Any]


def main() -> None:
    """Compare every task of OURS_JSON and write the counts to RESULT_JSON."""
    data, ours_path, result_path = (Path(argument) for argument in sys.argv[1:4])
    ours = json.loads(ours_path.read_text())
    manager = TaskManager()
    counts = {name: _compare(manager, name, task, data) for name, task in ours["tasks"].items()}
    variants = _compare_variants(manager, ours["variants"])
    packages = ("lm-eval", "datasets", "jinja2", "torch")
    versions = {f"peer {name}": version(name) for name in packages}
    result_path.write_text(json.dumps({"tasks": counts, "variants": variants, "versions": versions}))


def _compare(manager: Any, name: str, ours: Mapping[str, Any], data: Path) -> Row:
    task = load_with_rows(manager, name, ours["peer_task"], data, ours["constants"], ours["few_shot_count"])
    documents = list(task.eval_docs)
    if not len(documents) == ours["item_count"] == len(ours["items"]):
        raise SystemExit(f"{name}: {len(documents)} rows, {ours['item_count']} items, {len(ours['items'])} usable")
    differences = [
        found
        for document, item in zip(documents, ours["items"], strict=True)
        if (found := _difference(task, document, item, ours)) is not None
    ]
    example = differences[0] if differences else ""
    return {"equal": len(documents) - len(differences), "different": len(differences), "example": example}


def _compare_variants(manager: Any, variants: list[Mapping[str, Any]]) -> Row:
    """Compare what distinguishes the variants of a family, on one made-up row."""
    row = {"question": "", "choices": ["", "", "", ""], "answer": 0, "input": "", "target": ""}
    unsolved = {"question": "", "answer": None, "answer_number": 0}
    differences = []
    for variant in variants:
        asks_in_its_own_words = bool(variant["prompt"])
        told = unsolved if asks_in_its_own_words else row
        task = load_peer_task(manager, variant["peer_task"], {"test": [told], "dev": [told], "train": [told]})
        config = task.config
        # The second filter is flexible-extract; mmlu has none, and mgsm's variants differ by the first.
        filters = config.filter_list or [{}, {"filter": [{}]}]
        pattern = filters[0 if asks_in_its_own_words else 1]["filter"][0].get("regex_pattern", "")
        theirs = (
            config.description,
            pattern,
            task.doc_to_text(told) if asks_in_its_own_words else "",
            config.generation_kwargs["until"] if asks_in_its_own_words else [],
        )
        if theirs != (variant["preamble"], variant["pattern"], variant["prompt"], variant["stop"]):
            differences.append(f"{variant['peer_task']}: theirs {theirs!r} ours {variant!r}")
    example = differences[0] if differences else ""
    return {"equal": len(variants) - len(differences), "different": len(differences), "example": example}


def load_with_rows(
    manager: Any, name: str, peer_task: str, data: Path, constants: Mapping[str, Any], few_shot_count: int
) -> Any:
    """Return a task of the harness that has the rows of our files, and takes the first for examples if it has some."""
    splits = {split: list(rows) for split, rows in harness_rows(name, constants, data).items()}
    task = load_peer_task(manager, peer_task, splits)
    if few_shot_count:
        task.sampler = lm_eval.api.samplers.FirstNSampler(list(splits.get(_EXAMPLES) or task.fewshot_docs()))
    return task


def load_peer_task(manager: Any, name: str, splits: Mapping[str, Iterable[Row]]) -> Any:
    """Return a task of the harness that has the given rows."""
    datasets = lm_eval.api.task.datasets
    given = datasets.DatasetDict({split: datasets.Dataset.from_list(list(rows)) for split, rows in splits.items()})
    download, datasets.load_dataset = datasets.load_dataset, lambda *_, **__: given
    # What runs programs is downloaded and tried when such a task is loaded; only its prompts are wanted here.
    measure, evaluate.load = evaluate.load, lambda *_, **__: _NoMeasure()
    try:
        return manager.load(name)["tasks"][name]
    finally:
        datasets.load_dataset, evaluate.load = download, measure


class _NoMeasure:
    def compute(self, **_: Any) -> None:
        """Run nothing."""


def _difference(task: Any, document: Row, item: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """What differs first between the harness's requests for a row and our item; ``None`` if nothing does."""
    context = task.fewshot_context(document, num_fewshot=ours["few_shot_count"])
    requests = task.construct_requests(document, context)
    if task.OUTPUT_TYPE == "generate_until":
        options = task.config.generation_kwargs
        theirs = {
            "contexts": [requests.args[0]],
            "stop": options["until"],
            "max_tokens": options.get("max_gen_toks", DEFAULT_MAX_TOKENS),
            "right": True,
        }
        mine = {"contexts": item["contexts"], "stop": ours["stop"], "max_tokens": ours["max_tokens"]}
        mine["right"] = "test_list" in document or "test" in document or _same_answer(task, document, item["targets"])
    else:
        theirs = {
            "contexts": [request.args[0] for request in requests],
            "continuations": [request.args[1] for request in requests],
            "gold": _right_choices(task, document, len(requests)),
        }
        mine = {key: item[key] for key in theirs}
        if "acc_norm" in task._metric_fn_list:
            theirs["choices"], mine["choices"] = task.doc_to_choice(document), item["choices"]
    wrong = [key for key in theirs if theirs[key] != mine[key]]
    return f"{wrong[0]}: theirs {theirs[wrong[0]]!r} ours {mine[wrong[0]]!r}" if wrong else None


def _same_answer(task: Any, document: Row, targets: list[str]) -> bool:
    """Whether our target is the harness's, by its own comparison."""
    options = next(iter(task._metric_fn_kwargs.values()))
    theirs = task.doc_to_target(document)
    found = lm_eval.api.metrics.exact_match_hf_evaluate(predictions=targets, references=[theirs], **options)
    return bool(found["exact_match"] == 1.0)


def _right_choices(task: Any, document: Row, count: int) -> list[int]:
    """Indices that score as right, found by asking the harness to judge each of them as the likeliest."""
    right = []
    for index in range(count):
        results = [(0.0 if each == index else -100.0, False) for each in range(count)]
        if task.process_results(document, results)["acc"] == 1.0:
            right.append(index)
    return right


def harness_rows(name: str, constants: Mapping[str, Any], data: Path) -> dict[str, Iterator[Row]]:
    """The splits of our data folder that a task needs, in the columns of the harness's hub data set."""
    if name.startswith("mmlu_"):
        files = {split: data / f"mmlu/{split}/{constants['subject']}_{split}.csv" for split in ("test", "dev")}
        return {split: _mmlu(path) for split, path in files.items()}
    if name.startswith("mgsm_"):
        return _mgsm(data / f"mgsm/mgsm_{constants['language']}.tsv")
    if name.startswith("bbh_"):
        return {"test": iter(json.loads((data / f"bbh/{constants['subtask']}.json").read_text())["examples"])}
    return _PLAIN[name](data)


def _lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from (json.loads(line) for line in file)


def _mmlu(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        for question, *choices, letter in csv.reader(file):
            yield {"question": question, "choices": choices, "answer": "ABCD".index(letter)}


def _gsm8k(data: Path) -> dict[str, Iterator[Row]]:
    return {split: _lines(data / f"gsm8k/{split}.jsonl") for split in ("train", "test")}


def arc_rows(data: Path) -> dict[str, Iterator[Row]]:
    """The splits of ARC-Challenge."""
    rows = (
        {
            "id": row["id"],
            "question": row["question"]["stem"],
            "choices": _columns(row["question"]["choices"]),
            "answerKey": row["answerKey"],
        }
        for row in _lines(data / "arc_challenge/ARC-Challenge-Test.jsonl")
    )
    return {"test": rows, "train": iter([]), "validation": iter([])}


def _columns(choices: list[Row]) -> Row:
    return {"text": [each["text"] for each in choices], "label": [each["label"] for each in choices]}


def _commonsenseqa(data: Path) -> dict[str, Iterator[Row]]:
    rows = (
        {
            "id": row["id"],
            "question": row["question"]["stem"],
            "question_concept": row["question"]["question_concept"],
            "choices": _columns(row["question"]["choices"]),
            "answerKey": row["answerKey"],
        }
        for row in _lines(data / "commonsenseqa/dev_rand_split.jsonl")
    )
    return {"validation": rows, "train": iter([])}


def _hellaswag(data: Path) -> dict[str, Iterator[Row]]:
    rows = ({**row, "label": str(row["label"])} for row in _lines(data / "hellaswag/hellaswag_val.jsonl"))
    return {"validation": rows, "train": iter([])}


def _truthfulqa(data: Path) -> dict[str, Iterator[Row]]:
    rows = (
        {
            "question": row["question"],
            "mc1_targets": {
                "choices": list(row["mc1_targets"]),
                "labels": list(row["mc1_targets"].values()),
            },
        }
        for row in json.loads((data / "truthfulqa/mc_task.json").read_text())
    )
    return {"validation": rows}


def _boolq(data: Path) -> dict[str, Iterator[Row]]:
    rows = (
        {"question": row["question"], "passage": row["passage"], "label": int(row["answer"])}
        for row in _lines(data / "boolq/boolq_dev.jsonl")
    )
    return {"validation": rows, "train": iter([])}


def _piqa(data: Path) -> dict[str, Iterator[Row]]:
    labels = (data / "piqa/valid-labels.lst").read_text().split()
    pairs = zip(_lines(data / "piqa/valid.jsonl"), labels, strict=True)
    return {"validation": ({**row, "label": int(label)} for row, label in pairs), "train": iter([])}


def _winogrande(data: Path) -> dict[str, Iterator[Row]]:
    dataset = lm_eval.api.task.datasets.Dataset.from_parquet(str(data / "winogrande/validation.parquet"))
    return {"validation": iter(dataset), "train": iter([])}


def _mgsm(path: Path) -> dict[str, Iterator[Row]]:
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    pairs = (line.split("\t") for line in lines)
    rows = ({"question": asked, "answer": None, "answer_number": int(n.replace(",", ""))} for asked, n in pairs)
    return {"test": rows, "train": iter([])}


def _humaneval(data: Path) -> dict[str, Iterator[Row]]:
    with gzip.open(data / "humaneval/HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return {"test": iter([json.loads(line) for line in file])}


def _mbpp(data: Path) -> dict[str, Iterator[Row]]:
    rows = list(_lines(data / "mbpp/mbpp.jsonl"))
    asked = (row for row in rows if row["task_id"] > 10)
    return {"test": asked, _EXAMPLES: ({**row, "is_fewshot": True} for row in rows[:4])}


def _bbq(data: Path) -> dict[str, Iterator[Row]]:
    rows = (row for path in sorted((data / "bbq").glob("*.jsonl")) for row in _lines(path))
    return {"test": rows}


_PLAIN: Mapping[str, Callable[[Path], dict[str, Iterator[Row]]]] = {
    "gsm8k": _gsm8k,
    "arc_challenge": arc_rows,
    "commonsenseqa": _commonsenseqa,
    "hellaswag": _hellaswag,
    "truthfulqa_mc1": _truthfulqa,
    "boolq": _boolq,
    "piqa": _piqa,
    "winogrande": _winogrande,
    "bbq": _bbq,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
}

if __name__ == "__main__":
    main()
