"""Ask lm-evaluation-harness 0.4.13 for its verdicts on crafted outputs; the tests compare ours with what this wrote.

Run with a Python that has ``lm_eval`` 0.4.13, ``langdetect``, ``immutabledict`` and NLTK with its English Punkt model
(``NLTK_DATA``), from the repository's root, with EVALFLEET_DATA_DIR set to the public sets:

    python -m tests.reference.lm_eval_verdicts [ifeval] [choices] [prompts]

It writes ``ifeval_verdicts.json``, ``choice_verdicts.json`` and ``prompt_digests.json`` beside itself: numbers, bits
and digests, no text of any row.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.reference.choice_outputs import arc_log_likelihoods, bbq_log_likelihoods, truthfulqa_log_likelihoods
from tests.reference.ifeval_outputs import outputs

HERE = Path(__file__).parent
DATA = Path(os.environ.get("EVALFLEET_DATA_DIR", "../shared/data"))


def main() -> None:
    """Write the files that are named, or all."""
    wanted = set(sys.argv[1:]) or {"ifeval", "choices", "prompts"}
    if "ifeval" in wanted:
        (HERE / "ifeval_verdicts.json").write_text(json.dumps(_ifeval(), indent=0) + "\n")
    if "choices" in wanted:
        (HERE / "choice_verdicts.json").write_text(json.dumps(_choices()) + "\n")
    if "prompts" in wanted:
        (HERE / "prompt_digests.json").write_text(json.dumps(_prompts()) + "\n")


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
    return {
        "mc2": mc2,
        "bbq": counts,
        "bbq_scores": {name: float(value) for name, value in scores.items()},
        "mutual_info": _mutual_info(),
    }


def _mutual_info() -> list[str]:
    """Of each row of ARC: the digest of what the harness asks, and whether it takes the right choice."""
    from lm_eval.api.metrics import acc_mutual_info_fn
    from lm_eval.tasks import TaskManager

    from benchmarks.prompt_parity_peer import arc_rows, load_peer_task

    task = load_peer_task(TaskManager(), "arc_challenge", arc_rows(DATA))
    task._metric_fn_list["acc_mutual_info"] = acc_mutual_info_fn
    verdicts = []
    for row in task.eval_docs:
        requests = task.construct_requests(row, task.fewshot_context(row, num_fewshot=0))
        asked = json.dumps([list(each.args) for each in requests])
        conditional, unconditional = arc_log_likelihoods(row["id"], len(requests) // 2)
        found = task.process_results(row, [(value, False) for value in (*conditional, *unconditional)])
        verdicts.append(f"{digest(asked)} {found['acc_mutual_info']:g}")
    return verdicts


def _likelihoods(row: dict[str, Any], bbq: Any) -> list[tuple[float, bool]]:
    name = f"{row['category']}-{row['example_id']}"
    return [(value, False) for value in bbq_log_likelihoods(name, len(bbq.doc_to_choice(row)))]


def _prompts() -> dict[str, list[str]]:
    """By task: of each row, the digest of what the harness asks, of its stop strings and its limit of tokens."""
    from lm_eval.tasks import TaskManager

    from benchmarks.prompt_parity_peer import DEFAULT_MAX_TOKENS, load_with_rows

    manager = TaskManager()
    asked = [(f"mgsm_{each}", f"mgsm_native_cot_{each}", {"language": each}, 0) for each in ("en", "es", "sw", "zh")]
    asked += [("humaneval", "humaneval", {}, 0), ("mbpp", "mbpp", {}, 3)]
    digests = {}
    for name, peer_task, constants, few_shot_count in asked:
        task = load_with_rows(manager, name, peer_task, DATA, constants, few_shot_count)
        options = task.config.generation_kwargs
        ending = [options["until"], options.get("max_gen_toks", DEFAULT_MAX_TOKENS)]
        digests[name] = [
            digest(json.dumps([task.fewshot_context(row, num_fewshot=few_shot_count), *ending]))
            for row in task.eval_docs
        ]
    return digests


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
