"""Ask lm-evaluation-harness 0.4.13 for its verdicts on crafted outputs; the tests compare ours with what this wrote.

Run with a Python that has ``lm_eval`` 0.4.13, ``langdetect``, ``immutabledict`` and NLTK with its English Punkt model
(``NLTK_DATA``), from the repository's root, with EVALFLEET_DATA_DIR set to the public sets:

    python -m tests.reference.lm_eval_verdicts

It writes ``ifeval_verdicts.json`` and ``choice_verdicts.json`` beside itself: numbers and bits, no text of any row.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tests.reference.choice_outputs import bbq_log_likelihoods, truthfulqa_log_likelihoods
from tests.reference.ifeval_outputs import outputs

HERE = Path(__file__).parent
DATA = Path(os.environ.get("EVALFLEET_DATA_DIR", "../shared/data"))


def main() -> None:
    """Write both files."""
    (HERE / "ifeval_verdicts.json").write_text(json.dumps(_ifeval(), indent=0) + "\n")
    (HERE / "choice_verdicts.json").write_text(json.dumps(_choices()) + "\n")


def _ifeval() -> dict[str, list[str]]:
    """By row's key, one text an output: digest of the output, strict bits, loose bits; ``?`` where it is random."""
    import langdetect
    from lm_eval.tasks.ifeval import utils

    langdetect.DetectorFactory.seed = 0
    verdicts = {}
    with (DATA / "ifeval" / "input_data.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        known = [not _is_random(arguments) for arguments in row["kwargs"]]
        texts = []
        for output in outputs(row):
            found = utils.process_results(row, [output])
            bits = (_bits(found["inst_level_strict_acc"], known), _bits(found["inst_level_loose_acc"], known))
            texts.append(" ".join((digest(output), *bits)))
        verdicts[str(row["key"])] = texts
    return verdicts


def digest(output: str) -> str:
    """Tells whether an output is still the one that was judged."""
    return hashlib.sha256(output.encode()).hexdigest()[:8]


def _is_random(arguments: dict[str, Any]) -> bool:
    letter = arguments.get("letter")
    return letter is not None and not ("a" <= letter.lower() <= "z")


def _bits(followed: list[bool], known: list[bool]) -> str:
    return "".join(str(int(each)) if sure else "?" for each, sure in zip(followed, known, strict=True))


def _choices() -> dict[str, Any]:
    """TruthfulQA's MC2 by row, and of BBQ what one row counts for and the scores of all."""
    from lm_eval.tasks.bbq import utils as bbq
    from lm_eval.tasks.truthfulqa import utils as truthfulqa

    mc2 = []
    for row in json.loads((DATA / "truthfulqa" / "mc_task.json").read_text(encoding="utf-8")):
        labels = list(row["mc2_targets"].values())
        values = truthfulqa_log_likelihoods(row["question"], len(labels))
        found = truthfulqa.process_results_mc2(
            {"mc2_targets": {"labels": labels}}, [(value, False) for value in values]
        )
        mc2.append(float(found["acc"]) if labels == sorted(labels, reverse=True) else None)
    rows: list[dict[str, Any]] = []
    for category in ("Age", "Religion"):
        with (DATA / "bbq" / f"{category}.jsonl").open(encoding="utf-8") as file:
            rows += [json.loads(line) for line in file]
    judged = [bbq.process_results_multiple_choice(row, _likelihoods(row, bbq)) for row in _Rows(rows, bbq)]
    counts = [[int(value) for value in each["amb_bias_score"][:3]] for each in judged]
    scores = {
        "amb_bias_score": bbq.agg_amb_bias_scores([each["amb_bias_score"] for each in judged]),
        "disamb_bias_score": bbq.agg_disamb_bias_scores([each["disamb_bias_score"] for each in judged]),
        "accuracy_amb": bbq.agg_accuracy_amb([each["accuracy_amb"] for each in judged]),
        "accuracy_disamb": bbq.agg_accuracy_disamb([each["accuracy_disamb"] for each in judged]),
    }
    return {"mc2": mc2, "bbq": counts, "bbq_scores": {name: float(value) for name, value in scores.items()}}


def _likelihoods(row: dict[str, Any], bbq: Any) -> list[tuple[float, bool]]:
    name = f"{row['category']}-{row['example_id']}"
    return [(value, False) for value in bbq_log_likelihoods(name, len(bbq.doc_to_choice(row)))]


class _Rows:
    """Stands for a ``datasets.Dataset``, of which the harness uses ``map`` only."""

    def __init__(self, rows: list[dict[str, Any]], bbq: Any) -> None:
        self._rows = rows
        bbq.process_docs(self)

    def map(self, function: Any) -> None:
        self._rows = [function(row) for row in self._rows]

    def __iter__(self) -> Any:
        return iter(self._rows)


if __name__ == "__main__":
    main()
