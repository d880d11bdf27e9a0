"""The harness's half of scorer_parity: filters and scores the same samples with lm-evaluation-harness, compares.

Runs in the harness's own environment and imports nothing of ours.

    python scorer_parity_peer.py OURS_JSON RESULT_JSON
"""

import json
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters import build_filter_ensemble


def main() -> None:
    """Compare every item of OURS_JSON and write the counts to RESULT_JSON."""
    ours_path, result_path = (Path(argument) for argument in sys.argv[1:3])
    counts: dict[str, Any] = defaultdict(lambda: {"equal": 0, "different": 0, "right": 0, "examples": []})
    for item in json.loads(ours_path.read_text()):
        theirs = _judged(item)
        ours = (item["answer"], item["value"])
        count = counts[item["pipeline"]]
        count["equal" if theirs == ours else "different"] += 1
        count["right"] += theirs[1] == ours[1] == 1
        if theirs != ours and len(count["examples"]) < 3:
            count["examples"].append(f"  {item['samples'][0]!r}: theirs {theirs!r} ours {ours!r}\n")
    result_path.write_text(json.dumps({"pipelines": counts, "versions": {"peer lm-eval": version("lm-eval")}}))


def _judged(item: dict[str, Any]) -> tuple[str, float]:
    steps = [
        (each["function"], {name: value for name, value in each.items() if name != "function"})
        for each in item["filters"]
    ]
    instance = Instance("generate_until", {}, ("", {}), 0)
    instance.resps = item["samples"]
    build_filter_ensemble("it", steps).apply([instance])
    answer = instance.filtered_resps["it"]
    score = exact_match_hf_evaluate(predictions=[answer], references=[item["target"]], **item["parameters"])
    return answer, float(score["exact_match"])


if __name__ == "__main__":
    main()
