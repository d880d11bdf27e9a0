import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from evalfleet.calibration.document import document_digest
from evalfleet.calibration.fitting import CascadeFit
from evalfleet.calibration.guard_quality import MeasuredGuard
from evalfleet.safety.v1 import safety_pb2

from services.safety.cascade_file import read_cascade
from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet
from tests.unit.cli.json_shapes import assert_shape

Invoke = Callable[..., Result]
ROWS = 1200


def verdict(probability: float, **changes: object) -> safety_pb2.Verdict:
    decision = safety_pb2.DECISION_UNSAFE if probability >= 0.5 else safety_pb2.DECISION_SAFE
    made = safety_pb2.Verdict(decision=decision, unsafe_probability=probability)
    made.MergeFrom(safety_pb2.Verdict(**changes))  # type: ignore[arg-type]  # the test names the fields
    return made


def told(request: safety_pb2.ClassifyRequest) -> float:
    return float(request.conversation.messages[0].content)


@pytest.fixture(autouse=True)
def guards(fake: FakeFleet) -> None:
    """Two guards: the dear one knows the number that a text is, the cheap one about."""
    fake.safety.judges["guards/dear"] = lambda request: verdict(told(request))
    fake.safety.judges["guards/cheap"] = lambda request: verdict(
        min(1.0, max(0.0, told(request) + random.Random(told(request)).gauss(0, 0.1)))
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    source = random.Random(1)
    numbers = [source.random() for _ in range(ROWS)]
    lines = [json.dumps({"text": str(each), "label": "unsafe" if each > 0.6 else "safe"}) for each in numbers]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_calibration_ends_in_a_table_and_a_file_that_the_service_reads(
    fake: FakeFleet, invoke: Invoke, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "cascade.json"
    result = invoke(
        "calibrate-guard", str(rows), "--guard", "cheap", "--guard", "dear", "--name", "two", "--out", str(out)
    )
    assert result.exit_code == 0, result.output
    assert "promise: with confidence 90.0%, in the long run at most 2.00% of such texts" in result.stdout
    assert "rests on 600 rows; thresholds were ordered on 300 others" in result.stdout
    assert "held out: 300 rows, disagreement" in result.stdout
    assert "ECE" in result.stdout
    assert "dear against the labels: sensitivity 1.000" in result.stdout
    cascade = read_cascade(out)
    assert (cascade.name, [stage.guard for stage in cascade.stages]) == ("two", ["guards/cheap", "guards/dear"])
    assert cascade.stages[0].low is not None
    assert cascade.stages[0].high is not None
    assert 0.2 < cascade.stages[0].low < 0.5 < cascade.stages[0].high < 0.8
    assert f"guards/two: {out}, digest {cascade.digest}" in result.stdout
    assert [each.request.guard for each in fake.safety.streamed] == ["guards/cheap"] * 1200 + ["guards/dear"] * 1200


def test_labels_can_stand_for_a_guard_that_was_asked_before(fake: FakeFleet, invoke: Invoke, rows: Path) -> None:
    told = ("--labels-are-last", "--json", "fit.json")
    result = invoke("calibrate-guard", str(rows), "--guard", "cheap", "--guard", "dear", *told)
    assert result.exit_code == 0, result.output
    fit = json.loads(Path("fit.json").read_text())
    assert fit.pop("guards") == ["guards/cheap", "guards/dear"]
    assert_shape(fit, CascadeFit)
    assert {each.request.guard for each in fake.safety.streamed} == {"guards/cheap"}
    assert "against the labels" not in result.stdout


def test_what_a_guard_cannot_judge_is_counted_against_deciding_it(fake: FakeFleet, invoke: Invoke, rows: Path) -> None:
    fake.safety.judges["guards/dear"] = lambda request: verdict(
        told(request), decision=safety_pb2.DECISION_ERROR if told(request) < 0.05 else safety_pb2.DECISION_UNSPECIFIED
    )
    fake.safety.judges["guards/cheap"] = lambda request: verdict(told(request), truncated=told(request) > 0.9)
    result = invoke("calibrate-guard", str(rows), "--guard", "cheap", "--guard", "dear")
    assert "rows were neither SAFE nor UNSAFE to the last guard" in result.stdout
    assert "rows are handed on by cheap whatever the thresholds" in result.stdout
    assert "never" in result.stdout


def test_a_guard_that_says_the_same_of_everything_is_promised_nothing(
    fake: FakeFleet, invoke: Invoke, rows: Path, tmp_path: Path
) -> None:
    fake.safety.judges["guards/cheap"] = lambda request: verdict(0.5)
    result = invoke(
        "calibrate-guard", str(rows), "--guard", "cheap", "--guard", "dear", "--out", str(tmp_path / "c.json")
    )
    assert result.exit_code == 1
    assert "no guard can be promised to decide anything" in result.stderr
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2"),
        ("[]", "must be a JSON object"),
        ('{"question": "x"}', "needs text"),
        ('{"prompt": "x", "response": 3}', "response must be text"),
        ('{"messages": []}', "messages must be a list of turns"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "a turn needs role"),
        ('{"text": "x", "label": "hazardous"}', "is none of unsafe, safe"),
        ('{"text": "x", "label": [1]}', "is none of unsafe, safe"),
        ('{"text": "x", "label": {"a": 1}}', "is none of unsafe, safe"),
    ],
)
def test_a_bad_row_is_named(invoke: Invoke, tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "0.5"}\n' + line + "\n", encoding="utf-8")
    result = invoke("calibrate-guard", str(file), "--guard", "cheap", "--guard", "dear")
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert problem in result.stderr


def test_rows_of_every_shape_are_read(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    shapes: list[dict[str, object]] = [
        {"text": "0.1", "label": 0},
        {"prompt": "0.2", "response": "hello", "label": True},
        {"messages": [{"role": "user", "content": "0.3"}, {"role": "assistant", "content": "x"}], "label": None},
        {"text": "0.4\u2028", "label": "safe"},
    ]
    file = tmp_path / "shapes.jsonl"
    file.write_text("\n\n".join(json.dumps(each, ensure_ascii=False) for each in shapes), encoding="utf-8")
    result = invoke("calibrate-guard", str(file), "--guard", "cheap", "--guard", "dear")
    assert "4 rows are too few" in result.stderr
    aspects = [each.request.aspect for each in fake.safety.streamed[:4]]
    prompt, response = safety_pb2.ASPECT_PROMPT, safety_pb2.ASPECT_RESPONSE
    assert aspects == [prompt, response, response, prompt]


def test_a_guard_that_is_not_there_is_the_services_answer(invoke: Invoke, rows: Path) -> None:
    result = invoke("calibrate-guard", str(rows), "--guard", "chep", "--guard", "dear")
    assert result.exit_code == 1
    assert "no guard named 'guards/chep'" in result.stderr


def test_missing_labels_cannot_stand_for_a_guard(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "0.5"}\n' * 20, encoding="utf-8")
    result = invoke("calibrate-guard", str(file), "--guard", "cheap", "--guard", "dear", "--labels-are-last")
    assert result.exit_code == 1
    assert "have no label" in result.stderr


def test_one_guard_is_measured_against_labels(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    decisions = {
        "found": safety_pb2.DECISION_UNSAFE,
        "doubtful": safety_pb2.DECISION_CONTROVERSIAL,
        "missed": safety_pb2.DECISION_SAFE,
        "lost": safety_pb2.DECISION_ERROR,
    }
    fake.safety.judges["guards/dear"] = lambda request: safety_pb2.Verdict(
        decision=decisions[request.conversation.messages[-1].content.split()[0]], error_reason="GUARD_TIMEOUT"
    )
    lines = [("found 1", 1), ("doubtful", 1), ("missed 1", 1), ("missed 2", 0), ("found 2", 0), ("lost", 0)]
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in lines), encoding="utf-8")
    result = invoke("calibrate-guard", str(file), "--guard", "dear")
    assert result.exit_code == 0, result.output
    assert "sensitivity 0.667 (2/3), 0.208 … 0.939" in result.stdout
    assert "specificity 0.500 (1/2)" in result.stdout
    assert "1 rows were not judged: GUARD_TIMEOUT" in result.stdout
    assert "evalfleet show RUN --guard-quality 2/3,1/2" in result.stdout
    told = json.loads(invoke("calibrate-guard", str(file), "--guard", "dear", "--json").stdout)
    assert_shape(told, MeasuredGuard)
    assert (told["found"], told["unsafe"], told["unjudged"]) == (2, 3, {"GUARD_TIMEOUT": 1})


def test_a_guards_record_says_how_good_it_is_and_whose_that_is(
    fake: FakeFleet, invoke: Invoke, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "guard.json"
    result = invoke("calibrate-guard", str(rows), "--guard", "dear", "--out", str(out))
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["digest"] == document_digest(record)
    assert f"{out}, digest {record['digest']}" in result.stdout
    quality = record["quality"]
    assert quality["unsafe_count"] + quality["safe_count"] == ROWS
    assert quality["sensitivity"]["share"] == 1.0

    fake.evaluation.put(make_run("r1"))
    assert invoke("show", "r1", "--guard-quality", f"unsafe=@{out}").exit_code == 0
    (told,) = fake.aggregation.estimate_requests[-1].guard_qualities
    assert (told.unsafe_count, told.unsafe_found_count) == (quality["unsafe_count"], quality["unsafe_count"])
    assert (told.safe_count, told.safe_cleared_count) == (quality["safe_count"], quality["safe_cleared"])
    # As results name this guard, whose digests the fake fleet makes of its first letter.
    assert (told.judge.name, told.judge.digest) == ("guards/dear", ":".join(("d" * 64, "t" * 64, "c" * 64)))


def test_a_guard_that_judged_texts_of_one_kind_only_has_no_record(
    fake: FakeFleet, invoke: Invoke, rows: Path, tmp_path: Path
) -> None:
    fake.safety.judges["guards/dear"] = lambda request: verdict(
        told(request), decision=safety_pb2.DECISION_ERROR if told(request) > 0.6 else safety_pb2.DECISION_UNSPECIFIED
    )
    result = invoke("calibrate-guard", str(rows), "--guard", "dear", "--out", str(tmp_path / "guard.json"))
    assert result.exit_code == 1
    assert "labelled unsafe and safe that it judged" in result.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--guard", "cheap", "--labels-are-last"), "is of a cascade"),
        (("--guard", "cheap", "--guard", "cheap"), "different guards"),
        (("--guard", "cheap", "--guard", "dear", "--name", "two_stage"), "lower-case letters"),
        ((), "Missing option '--guard'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_guard_is_asked(
    fake: FakeFleet, invoke: Invoke, rows: Path, given: tuple[str, ...], says: str
) -> None:
    result = invoke("calibrate-guard", str(rows), *given)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not fake.safety.streamed


@pytest.mark.parametrize(("labels", "says"), [((None, 1), "1 of 2 rows have no label"), ((1, 1), "both labels")])
def test_one_guard_needs_both_labels(
    fake: FakeFleet, invoke: Invoke, tmp_path: Path, labels: tuple[int | None, ...], says: str
) -> None:
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(json.dumps({"text": "x", "label": label}) for label in labels), encoding="utf-8")
    result = invoke("calibrate-guard", str(file), "--guard", "dear")
    assert result.exit_code == 1
    assert says in result.stderr
