"""What Ray calls in its workers, called here without Ray: answers as columns, and pieces as files."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evalfleet.answers import Answer, Sampling
from evalfleet.errors import EvalFleetError, FailedPreconditionError, InvalidArgumentError, UnavailableError
from evalfleet.fleet import Fleet
from evalfleet.ray import Asking, Classify, ClassifyQuestion, GenerateQuestion, Layout, ScoreQuestion
from evalfleet.ray.callables import AnsweredPieces
from evalfleet.ray.output import BulkFolder, added
from evalfleet.ray.pieces import cut, kept_schema
from evalfleet.ray.questions import Question
from evalfleet.ray.row_outcomes import Row, outcomes
from evalfleet.ray.sources import find_files
from evalfleet.safety.v1 import safety_pb2
from evalfleet.scorer_results import Score, ScorerReference

from tests.fakes.fleet import FakeFleet
from tests.patience import LONGEST_WAIT_SECONDS

QUICK = Asking(window=8, patience_seconds=0.0)


@pytest.fixture
def fake() -> Iterator[FakeFleet]:
    def verdict(request: safety_pb2.ClassifyRequest) -> safety_pb2.Verdict:
        text = request.conversation.messages[-1].content
        if text == "odd":
            return safety_pb2.Verdict(decision=safety_pb2.DECISION_ERROR, error_reason="GUARD_TIMEOUT")
        decision = safety_pb2.DECISION_UNSAFE if "bad" in text else safety_pb2.DECISION_SAFE
        return safety_pb2.Verdict(decision=decision, unsafe_probability=0.75 if "bad" in text else 0.25)

    with FakeFleet() as running:
        running.safety.judges["guards/g"] = verdict
        yield running


def test_verdicts_become_columns_beside_those_of_the_rows(fake: FakeFleet) -> None:
    classify = Classify(guard="g", columns={"text": "answer"}, targets=fake.targets, asking=QUICK)
    batch = pa.table({"answer": ["fine", "bad", None, "odd", ""], "id": [1, 2, 3, 4, 5]})
    told = classify(batch).to_pylist()
    assert [each["id"] for each in told] == [1, 2, 3, 4, 5]
    assert [each["decision"] for each in told] == ["safe", "unsafe", None, "error", None]
    assert [each["unsafe_probability"] for each in told] == [0.25, 0.75, None, None, None]
    reasons = [each["error_reason"] for each in told]
    assert reasons[:2] == [None, None]
    assert reasons[2:4] == ["ROW_INVALID", "GUARD_TIMEOUT"]
    assert reasons[4] is not None


def test_a_column_that_is_there_already_needs_a_prefix(fake: FakeFleet) -> None:
    batch = pa.table({"text": ["fine"], "decision": ["mine"]})
    with pytest.raises(InvalidArgumentError, match="prefix"):
        Classify(guard="g", targets=fake.targets)(batch)
    (told,) = Classify(guard="g", targets=fake.targets, prefix="guard_")(batch).to_pylist()
    assert (told["decision"], told["guard_decision"]) == ("mine", "safe")


def test_a_service_that_is_away_is_no_row_error(fake: FakeFleet) -> None:
    fake.stop()
    with pytest.raises(UnavailableError):
        Classify(guard="g", targets=fake.targets, asking=QUICK)(pa.table({"text": ["fine"]}))


def test_a_column_that_no_question_reads_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="a row has no 'txt'"):
        ClassifyQuestion(columns={"txt": "answer"}).inputs  # noqa: B018 - it is computed


def work(question: Question, out: Path, source: Path, fake: FakeFleet, layout: Layout) -> list[dict[str, Any]]:
    files = find_files([str(source)])
    answered = AnsweredPieces(question, kept_schema(files, layout), str(out), fake.targets, QUICK, "")
    pieces = cut(files, layout)
    batch = {name: np.array([getattr(each, name) for each in pieces]) for name in ("number", "uri", "begin", "end")}
    told = answered(batch)
    return [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [{"text": "bad" if index % 4 == 0 else f"fine {index}", "n": index} for index in range(50)]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return file


def test_each_row_has_one_result_and_finished_pieces_are_not_asked_again(
    fake: FakeFleet, source: Path, tmp_path: Path
) -> None:
    out, layout = tmp_path / "out", Layout(piece_bytes=256, keep=("n",))
    folder = BulkFolder(str(out))
    folder.begin({"question": 1})
    told = work(ClassifyQuestion(guard="g"), out, source, fake, layout)
    assert not any(each["error_reason"] for each in told)
    table = pq.read_table(out)
    assert sorted(int(each) for each in table.column("n").to_pylist()) == list(range(50))
    assert len(set(table.column("source_position").to_pylist())) == 50
    total = added(folder.finished().values())
    assert (total.rows, total.failed, total.outcomes) == (50, 0, {"safe": 37, "unsafe": 13})
    assert len(fake.safety.streamed) == 50

    (out / "part-000002.parquet").unlink()
    lost = 50 - pq.read_table(out).num_rows
    work(ClassifyQuestion(guard="g"), out, source, fake, layout)
    assert len(fake.safety.streamed) == 50 + lost
    assert pq.read_table(out).num_rows == 50


def test_a_piece_that_is_not_finished_leaves_nothing(fake: FakeFleet, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    BulkFolder(str(out)).begin({})
    fake.stop()
    told = work(ClassifyQuestion(guard="g"), out, source, fake, Layout(piece_bytes=1024))
    assert {each["error_reason"] for each in told} == {"UNAVAILABLE"}
    assert [each.name for each in out.iterdir()] == ["_bulk.json"]


def test_a_folder_of_another_job_is_refused(tmp_path: Path) -> None:
    folder = BulkFolder(str(tmp_path / "out"))
    folder.begin({"question": {"guard": "a"}, "prefix": ""})
    folder.begin({"question": {"guard": "a"}, "prefix": ""})
    with pytest.raises(FailedPreconditionError, match="another question") as caught:
        folder.begin({"question": {"guard": "b"}, "prefix": ""})
    assert caught.value.reason == "BULK_OUTPUT_DIFFERS"
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(FailedPreconditionError) as caught:
        BulkFolder(str(tmp_path)).begin({})
    assert caught.value.reason == "BULK_OUTPUT_TAKEN"
    (tmp_path / "out" / ".part-000001.parquet.0123").write_text("half")
    folder.clear_partial()
    assert folder.finished() == {}
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["_bulk.json"]


class Many:
    """A service that answers in order, and keeps what it was asked."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def __call__(self, *arguments: Any, **options: Any) -> Iterator[tuple[int, Any]]:
        requests = next(each for each in arguments if isinstance(each, Iterator))
        for number, request in enumerate(requests):
            if isinstance(request, EvalFleetError):
                yield number, request
                continue
            self.asked.append(request)
            yield number, self.answer(request)


def test_prompts_of_every_form_are_answered() -> None:
    many = Many(lambda prompt: Answer((f"to {prompt}",), ("stop",), 3, 2, "d", False))
    fleet = cast("Fleet", SimpleNamespace(generation=SimpleNamespace(generate_many=many)))
    rows: list[Any] = [
        {"prompt": "a"},
        {"prompt": "a", "system": "s"},
        {"messages": [{"role": "user", "content": "m"}], "prompt": None},
        {"prompt": 3},
    ]
    told = list(GenerateQuestion("m", Sampling()).answers(fleet, rows, QUICK))
    assert many.asked == [[("user", "a")], [("system", "s"), ("user", "a")], [("user", "m")]]
    assert (told[0]["finish_reason"], told[0]["completion_tokens"]) == ("stop", 2)
    assert told[3]["error_reason"] == "ROW_INVALID"
    list(GenerateQuestion("m", is_raw=True).answers(fleet, rows[:2], QUICK))
    assert many.asked[3:] == ["a", "a"]


def test_outputs_are_scored_with_the_fields_that_they_have() -> None:
    many = Many(lambda output: Score({"exact_match": 1.0}, "x", ScorerReference("scorers/s", "1", "d")))
    fleet = cast("Fleet", SimpleNamespace(scoring=SimpleNamespace(score_many=many)))
    (told,) = ScoreQuestion("s").answers(fleet, [{"text": "x", "targets": "x", "choices": None}], QUICK)
    assert many.asked == [{"text": "x", "targets": ["x"]}]
    assert told["metrics"] == [("exact_match", 1.0)]


def test_rows_without_a_request_keep_their_places() -> None:
    rows: list[Any] = [{"n": -1}, {"n": 0}, EvalFleetError("no row", reason="X"), {"n": 1}, {"n": -1}]

    def request(row: Any) -> int:
        if row["n"] < 0:
            raise ValueError("is negative")
        return int(row["n"])

    def ask(requests: Iterator[int | EvalFleetError]) -> Iterator[tuple[int, str | EvalFleetError]]:
        for number, each in enumerate(requests):
            yield number, each if isinstance(each, EvalFleetError) else f"answer {each}"

    told = [each.reason if isinstance(each, EvalFleetError) else each for each in outcomes(rows, request, ask)]
    assert told == ["ROW_INVALID", "answer 0", "X", "answer 1", "ROW_INVALID"]
    assert list(outcomes([], request, ask)) == []


def test_rows_without_a_request_count_among_those_in_flight(fake: FakeFleet) -> None:
    read = 0
    is_judging, is_full = threading.Event(), threading.Event()

    def wait(request: safety_pb2.ClassifyRequest) -> safety_pb2.Verdict:
        is_judging.set()
        is_full.wait(LONGEST_WAIT_SECONDS)
        return safety_pb2.Verdict(decision=safety_pb2.DECISION_SAFE)

    def rows() -> Iterator[Row]:
        nonlocal read
        yield {"text": "fine"}
        is_judging.wait(LONGEST_WAIT_SECONDS)
        for read in range(1, 1000):
            if read == QUICK.window - 1:
                # So many may be read; whoever reads more does so before the first row is answered.
                threading.Timer(0.05, is_full.set).start()
            yield {}

    fake.safety.judges["guards/g"] = wait
    with Fleet.connect(fake.targets) as fleet:
        told = ClassifyQuestion(guard="g").answers(fleet, rows(), QUICK)
        assert next(told)["decision"] == "safe"
        assert read < 2 * QUICK.window
        assert [each["error_reason"] for each in told] == ["ROW_INVALID"] * 999
