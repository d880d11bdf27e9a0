"""TruthfulQA's MC2 and BBQ's bias on the public rows: what lm-evaluation-harness says of the same log-likelihoods."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import Item, PlainPrompt
from services.evaluation.loading import load_task
from services.scoring.contract import ChoicesOutput, Score, ScoringItem
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.registry import ScorerRegistry, builtin_scorers
from tests.reference.choice_outputs import arc_log_likelihoods, bbq_log_likelihoods, truthfulqa_log_likelihoods

THEIRS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "reference" / "choice_verdicts.json").read_text(encoding="utf-8")
)
CATALOG = Catalog.load()
REGISTRY = ScorerRegistry(builtin_scorers())


def items_of(task: str, data_dir: Path) -> list[Item]:
    items = [item for item in load_task(CATALOG.task(task), DataRoots((data_dir,))).items() if isinstance(item, Item)]
    return sorted(items, key=lambda item: (item.file_name, item.row_number))


def judge(scorer: str, item: Item, log_likelihoods: list[float], details: Any) -> Score:
    assert item.multiple_choice is not None
    known = ScoringItem(gold_indices=item.multiple_choice.gold_indices, details=details)
    choices = tuple(choice.text for choice in item.multiple_choice.choices)
    return REGISTRY.bind(f"scorers/{scorer}", {}).score(known, ChoicesOutput(tuple(log_likelihoods), choices))


def test_mc2_of_every_row_is_the_harnesss(data_dir: Path) -> None:
    compared = 0
    rows = json.loads((data_dir / "truthfulqa" / "mc_task.json").read_text(encoding="utf-8"))
    for row, item, theirs in zip(rows, items_of("truthfulqa_mc2", data_dir), THEIRS["mc2"], strict=True):
        values = truthfulqa_log_likelihoods(row["question"], len(row["mc2_targets"]))
        ours = judge("choice_probabilities", item, values, {}).metrics["gold_probability"]
        if theirs is not None:  # a true answer after a false one: the harness takes it for false
            assert ours == pytest.approx(theirs, abs=1e-12)
            compared += 1
    assert compared == 298


def test_answers_without_their_groups_are_refused() -> None:
    item = ScoringItem(
        gold_indices=(0,),
        details={
            "question_polarity": "neg",
            "stereotyped_groups": ["old"],
            "answers": ["a", "b"],
            "answer_info": [["a", "old"]],
        },
    )
    with pytest.raises(InvalidScoreRequestError, match="details: 2 answers have 1 answer_info"):
        REGISTRY.bind("scorers/bbq_bias", {}).score(item, ChoicesOutput((-1.0, -2.0), ("a", "b")))


def test_bbqs_counts_and_scores_are_the_harnesss(data_dir: Path) -> None:
    totals = {"ambig": [0.0, 0.0, 0.0], "disambig": [0.0, 0.0, 0.0]}
    for item, (right, biased, named) in zip(items_of("bbq", data_dir), THEIRS["bbq"], strict=True):
        assert item.multiple_choice is not None
        values = bbq_log_likelihoods(item.item_id, len(item.multiple_choice.choices))
        found = judge("bbq_bias", item, values, item.details[1]).metrics
        assert (found["biased"], found["counter_biased"]) == (biased, named - biased), item
        assert judge("multiple_choice", item, values, {}).metrics["acc"] == right
        sums = totals[item.groups["context_condition"]]
        for position, value in enumerate((right, found["biased"], found["counter_biased"])):
            sums[position] += value
    (ambiguous, biased, counter), (clear, clear_biased, clear_counter) = totals["ambig"], totals["disambig"]
    theirs = THEIRS["bbq_scores"]
    assert (biased - counter) / 600 == pytest.approx(theirs["amb_bias_score"])
    difference, both = clear_biased - clear_counter, clear_biased + clear_counter
    assert difference / both == pytest.approx(theirs["disamb_bias_score"])
    assert (ambiguous / 600, clear / 600) == pytest.approx((theirs["accuracy_amb"], theirs["accuracy_disamb"]))
    assert theirs["amb_bias_score"] != 0


def test_mutual_information_of_every_row_is_asked_and_judged_as_the_harness_does(data_dir: Path) -> None:
    items = items_of("arc_challenge_pmi", data_dir)
    lines = (data_dir / "arc_challenge" / "ARC-Challenge-Test.jsonl").read_text(encoding="utf-8").splitlines()
    taken = 0.0
    for line, item, theirs in zip(lines, items, THEIRS["mutual_info"], strict=True):
        question = item.multiple_choice
        assert question is not None
        alone = question.unconditional_group()
        assert alone is not None
        assert isinstance(alone.context, PlainPrompt)
        assert all(isinstance(choice.context, PlainPrompt) for choice in question.choices)
        asked = [[choice.context.text, choice.continuation] for choice in question.choices]  # type: ignore[union-attr]
        asked += [[alone.context.text, continuation] for continuation in alone.continuations]
        conditional, unconditional = arc_log_likelihoods(json.loads(line)["id"], len(question.choices))
        texts = tuple(choice.text for choice in question.choices)
        output = ChoicesOutput(tuple(conditional), texts, tuple(unconditional))
        known = ScoringItem(gold_indices=question.gold_indices)
        ours = REGISTRY.bind("scorers/multiple_choice", {}).score(known, output).metrics["acc_mutual_info"]
        assert f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]} {ours:g}" == theirs
        taken += ours
    assert 0 < taken < len(items) == 300
