import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from evalfleet.calibration.document import document_digest
from evalfleet.scoring.v1 import scoring_pb2

from services.runtime.errors import FailedPreconditionError, NotFoundError
from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet
from tests.fakes.scoring import verdict

Invoke = Callable[..., Result]


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return str(file)


def rated(count: int = 40) -> list[dict[str, Any]]:
    """Texts that name the judge's verdict; people say 5 to each fourth and 2 to the others, of one of which it errs."""

    def said(index: int) -> str:
        return "garbage" if index == 0 else "4" if index % 4 == 0 or index == 1 else "2"

    return [{"prompt": "Why?", "response": said(index), "label": 2 if index % 4 else 5} for index in range(count)]


def judge(request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
    """Says what the text says; of garbage it makes nothing, at a cost."""
    if request.text == "garbage":
        raise FailedPreconditionError(
            "no verdict", reason="JUDGE_UNPARSABLE", metadata={"usage_computed_prompt_tokens": "8"}
        )
    return verdict(request.text, passed=float(request.text >= "4"))


def test_a_record_says_how_good_a_judge_is_and_corrects_rates(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    fake.scoring.judge = judge
    out = tmp_path / "judge.json"
    result = invoke(
        "calibrate-judge", write(tmp_path, rated()), "--judge", "j", "--passes", "4", "--passes", "5", "--out", str(out)
    )
    assert result.exit_code == 0, result.output
    assert "1 rows without a verdict: JUDGE_UNPARSABLE" in result.stdout
    assert "398 tokens computed, 0 rows known" in result.stdout
    assert "--guard-quality passed=9/9,29/30" in result.stdout

    record = json.loads(out.read_text())
    shown = invoke("calibrate-judge", write(tmp_path, rated()), "--judge", "j", "--passes=4", "--passes=5", "--json")
    assert json.loads(shown.stdout) == record
    assert record["digest"] == document_digest(record)
    assert record["judge"]["digest"] == "d1"
    assert (record["errors"]["count"], record["errors"]["share"]) == (1, 1 / 40)
    assert record["errors"]["reasons"] == {"JUDGE_UNPARSABLE": 1}
    assert (record["agreement"]["count"], record["agreement"]["of"]) == (29, 39)
    assert record["kappa"]["weights"] == "quadratic"
    assert record["kappa"]["interval"][0] < record["kappa"]["value"] < record["kappa"]["interval"][1]
    assert record["confusion"] == {"2": {"2": 29, "4": 1}, "5": {"4": 9}}
    assert record["quality"]["sensitivity"]["share"] == 1.0
    assert record["quality"]["specificity"]["share"] == pytest.approx(29 / 30)
    assert record["position"] is None
    assert record["votes"] is None
    sent = fake.scoring.requests[0]
    assert (sent.scorer, sent.prompt) == ("scorers/llm_judge", "Why?")
    assert list(sent.parameters["judges"]) == ["j"]  # type: ignore[arg-type]

    fake.evaluation.put(make_run("r1"))
    assert invoke("show", "r1", "--guard-quality", f"correct=@{out}").exit_code == 0
    (told,) = fake.aggregation.estimate_requests[-1].guard_qualities
    assert (told.metric, told.unsafe_found_count, told.unsafe_count) == ("correct", 9, 9)
    assert (told.safe_cleared_count, told.safe_count) == (29, 30)
    # The fleet refuses it for runs of another judge.
    assert (told.judge.name, told.judge.digest) == ("scorers/llm_judge", "d1")


def test_every_parameter_of_a_judge_can_be_given(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    fake.scoring.judge = lambda _: verdict("7", passed=1.0)
    out = tmp_path / "judge.json"
    given = ["-p", "scale=[0, 9]", "-p", "pass_from=7", "-p", "probabilities=false", "-p", "seed=3"]
    rows = write(tmp_path, [{"prompt": "p", "response": "r", "label": 7}])
    result = invoke("calibrate-judge", rows, *given, "--out", str(out))
    assert result.exit_code == 0, result.output
    told = {"scale": [0, 9], "pass_from": 7, "probabilities": False, "seed": 3}
    sent = fake.scoring.requests[0].parameters
    assert list(sent["scale"]) == [0, 9]  # type: ignore[arg-type]
    assert {name: sent[name] for name in told if name != "scale"} == {"pass_from": 7, "probabilities": False, "seed": 3}
    assert json.loads(out.read_text())["judge"]["parameters"].items() >= told.items()


@pytest.mark.parametrize(
    ("given", "problem"), [("votes=3", "has an option of its own: votes"), ("seed", "is not NAME=VALUE")]
)
def test_a_parameter_is_given_once_and_in_full(invoke: Invoke, tmp_path: Path, given: str, problem: str) -> None:
    result = invoke("calibrate-judge", write(tmp_path, rated(2)), "-p", given)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_position_bias_of_comparisons_is_measured(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    def first(request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        assert request.details["baseline"] == "other"
        assert list(request.targets) == ["ref"]
        inconsistent = float(request.text == "odd")
        return verdict(
            "tie" if inconsistent else request.text,
            passed=float(request.text == "response"),
            position_inconsistent=inconsistent,
            first_preferred=0.5 + inconsistent / 2,
        )

    fake.scoring.judge = first
    rows = [
        {"prompt": "p", "response": said, "baseline": "other", "reference": "ref", "label": label}
        for said, label in [("response", "response"), ("baseline", "baseline"), ("odd", "response"), ("odd", "tie")] * 5
    ]
    out = tmp_path / "judge.json"
    result = invoke("calibrate-judge", write(tmp_path, rows), "--rubric", "preference", "--out", str(out))
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["position"]["position_inconsistent"]["value"] == 0.5
    assert record["position"]["first_preferred"]["value"] == 0.75
    assert record["kappa"]["weights"] == "none"
    assert (record["quality"]["passing_labels"], record["quality"]["passing_found"]) == (["response"], 5)
    assert "the order decides" in result.stdout


def test_the_agreement_of_several_votes_is_measured(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    fake.scoring.judge = lambda request: verdict(request.text, passed=1.0, agreement=0.5)
    rows = [{"prompt": "p", "response": votes, "label": 4} for votes in ("4 4 5", "4 5 5", "5 5 5", "4 4 4")]
    out = tmp_path / "judge.json"
    invoke("calibrate-judge", write(tmp_path, rows), "--votes", "3", "--temperature", "0.7", "--out", str(out))
    record = json.loads(out.read_text())
    assert (record["votes"]["per_row"], record["votes"]["agreement"]["value"]) == (3, 0.5)
    assert record["votes"]["fleiss_kappa"]["value"] == pytest.approx(1 / 3)
    assert record["agreement"]["count"] == 2
    assert record["quality"] is None


def test_a_judge_without_a_verdict_has_no_record(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    fake.scoring.judge = judge
    rows = [{"prompt": "p", "response": "garbage", "label": "1"}] * 3
    result = invoke("calibrate-judge", write(tmp_path, rows), "--out", str(tmp_path / "x.json"))
    assert result.exit_code == 1
    assert "no verdict on any row (JUDGE_UNPARSABLE: 3)" in result.stderr
    assert not (tmp_path / "x.json").exists()


def test_what_fails_for_all_ends_it(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    def missing(request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        raise NotFoundError("judge models/j: no model named 'models/j'", reason="JUDGE_MODEL_NOT_FOUND")

    fake.scoring.judge = missing
    result = invoke("calibrate-judge", write(tmp_path, rated(2)))
    assert result.exit_code == 1
    assert "no model named 'models/j'" in result.stderr


def test_a_judge_that_is_replaced_meanwhile_has_no_record(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    fake.scoring.judge = lambda request: verdict("4", digest=request.text, passed=1.0)
    result = invoke("calibrate-judge", write(tmp_path, rated(3)))
    assert result.exit_code == 1
    assert "replaced meanwhile" in result.stderr


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("[1]", "must be a JSON object"),
        ('{"response": "x", "label": "4"}', "needs prompt"),
        ('{"prompt": "x", "label": "4"}', "needs response"),
        ('{"prompt": "x", "response": "y"}', "needs label"),
        ('{"prompt": "x", "response": "y", "label": true}', "needs label"),
        ('{"prompt": "x", "response": "y", "label": "4 5"}', "needs label"),
        ('{"prompt": "x", "response": "y", "label": 4, "reference": [1]}', "reference must be"),
        ('{"prompt": "x", "response": "y", "label": 4, "baseline": 1}', "baseline must be"),
        ("[" * 5000, "line 2"),
        ("", "holds no rows"),
    ],
)
def test_rows_that_cannot_be_read_are_named(invoke: Invoke, tmp_path: Path, row: str, problem: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n" + row)
    result = invoke("calibrate-judge", str(file))
    assert result.exit_code == 1
    assert problem in result.stderr


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot read"),
        ("{}", "is no record"),
        ('{"format": "evalfleet/judge-calibration/1", "digest": "x", "quality": null}', "was changed"),
    ],
)
def test_only_a_record_as_it_was_written_corrects_rates(
    fake: FakeFleet, invoke: Invoke, tmp_path: Path, content: str, problem: str
) -> None:
    fake.evaluation.put(make_run("r1"))
    (tmp_path / "judge.json").write_text(content)
    result = invoke("show", "r1", "--guard-quality", "passed=@judge.json")
    assert result.exit_code != 0
    assert problem in result.stderr


def test_a_record_without_both_kinds_of_rows_corrects_nothing(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    fake.evaluation.put(make_run("r1"))
    content = {"format": "evalfleet/judge-calibration/1", "quality": None}
    (tmp_path / "judge.json").write_text(json.dumps({**content, "digest": document_digest(content)}))
    assert "--passes" in invoke("show", "r1", "--guard-quality", "passed=@judge.json").stderr
