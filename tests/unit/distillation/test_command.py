"""`evalfleet distill-guard` against a safety service whose guards the test speaks for."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evalfleet.cli.app import cli
from evalfleet.safety.v1 import safety_pb2

from services.distillation.command import distill_guard
from services.safety.ngram_file import read_ngrams
from services.safety.ngram_guard import ngram_guard
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]
NOUNS = ("loaf", "fence", "tree", "shirt", "piano", "bike", "horse", "garden", "window", "letter")
SAFE_VERBS = ("paint", "draw", "find", "describe", "photograph", "sell")
UNSAFE_VERBS = ("burn", "steal", "smash", "poison")


def verdict(request: safety_pb2.ClassifyRequest) -> safety_pb2.Verdict:
    is_unsafe = any(verb in request.conversation.messages[-1].content for verb in UNSAFE_VERBS)
    return safety_pb2.Verdict(
        decision=safety_pb2.DECISION_UNSAFE if is_unsafe else safety_pb2.DECISION_SAFE,
        unsafe_probability=0.8 if is_unsafe else 0.3,
        threshold_applied=0.6,
    )


@pytest.fixture
def fake() -> Iterator[FakeFleet]:
    with FakeFleet() as running:
        running.safety.judges["guards/large"] = verdict
        yield running


@pytest.fixture
def invoke(fake: FakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    # As installed: an environment may have been made before the command.
    monkeypatch.setitem(cli.commands, "distill-guard", distill_guard)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, [f"--endpoint=safety={fake.targets['safety']}", "distill-guard", *arguments])

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    source = random.Random(2)
    texts = [
        f"How do I {verb} a {noun} number {number}?"
        for verb in (*SAFE_VERBS, *UNSAFE_VERBS)
        for noun in NOUNS
        for number in range(3)
    ]
    source.shuffle(texts)
    file = tmp_path / "rows.jsonl"
    lines = [{"text": text, "label": "unsafe" if "steal" in text else "safe"} for text in texts]
    file.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    return file


def asked(fake: FakeFleet) -> int:
    return len(fake.safety.streamed)


def test_it_ends_in_a_table_and_a_guard_that_the_service_takes(
    fake: FakeFleet, invoke: Invoke, rows: Path, tmp_path: Path
) -> None:
    result = invoke(
        str(rows),
        "--teacher",
        "large",
        "--out",
        "guards/small",
        "--budget",
        "200",
        "--compare-random",
        "--json",
        "f.json",
    )
    assert result.exit_code == 0, result.output
    assert "ngrams against large" in result.stdout
    assert "ngrams, labels at random, against large" in result.stdout
    assert "large against the rows' labels" in result.stdout
    assert "labels: 200 of 300 texts (66.7%); asked now 200, known from the labels file 0" in result.stdout
    assert "learnt from 150, of which" in result.stdout
    assert "for the guards file: - {name: small, kind: ngrams, folder: guards/small}" in result.stdout
    assert "labels: agreement" in result.stderr

    described, _ = read_ngrams(tmp_path / "guards" / "small")
    assert described.teacher is not None
    assert (described.teacher.name, described.teacher.weights_digest) == ("guards/large", "l" * 64)
    assert described.aspects == ("prompt",)
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert described.training == figures
    assert figures["labels"]["asked"] == 200
    assert figures["figures"]["student_teacher"]["agreement"]["value"] > 0.9
    assert figures["figures"]["teacher_people"]["agreement"]["value"] < 0.9
    extra = figures["labels_at_random"]["asked"]
    assert 0 < extra < 112
    assert asked(fake) == 200 + extra
    assert ngram_guard("guards/small", tmp_path / "guards" / "small", timeout_seconds=1).about.default_threshold == 0.5


def test_labels_are_not_paid_for_twice(fake: FakeFleet, invoke: Invoke, rows: Path) -> None:
    first = invoke(str(rows), "--teacher", "large", "--out", "one", "--budget", "100", "--labels", "labels.jsonl")
    assert first.exit_code == 0, first.output
    spent = asked(fake)
    again = invoke(str(rows), "--teacher", "large", "--out", "two", "--budget", "100", "--labels", "labels.jsonl")
    assert again.exit_code == 0, again.output
    assert asked(fake) == spent == 100
    assert "asked now 0, known from the labels file 100" in again.stdout


def test_a_service_that_goes_away_costs_no_label(fake: FakeFleet, invoke: Invoke, rows: Path, tmp_path: Path) -> None:
    def goes_away(request: safety_pb2.ClassifyRequest) -> safety_pb2.Verdict:
        if asked(fake) > 60:
            raise ConnectionError
        return verdict(request)

    fake.safety.judges["guards/large"] = goes_away
    options = ("--teacher", "large", "--out", "small", "--budget", "100", "--rounds", "3")
    result = invoke(str(rows), *options)
    assert result.exit_code == 1
    kept = (tmp_path / "small.labels.jsonl").read_text(encoding="utf-8").splitlines()
    assert 0 < len(kept) < 100
    assert not (tmp_path / "small").exists()
    fake.safety.judges["guards/large"] = verdict
    fake.safety.streamed.clear()
    assert invoke(str(rows), *options).exit_code == 0
    assert asked(fake) == 100 - len(kept)


def test_a_folder_that_is_there_is_refused_before_anything_is_asked(
    fake: FakeFleet, invoke: Invoke, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "small").mkdir()
    result = invoke(str(rows), "--teacher", "large", "--out", "small")
    assert result.exit_code == 1
    assert "small is there already" in result.stderr
    assert not fake.safety.streamed


def test_what_the_teacher_cannot_judge_is_told(fake: FakeFleet, invoke: Invoke, rows: Path) -> None:
    def often_fails(request: safety_pb2.ClassifyRequest) -> safety_pb2.Verdict:
        if "number 2" in request.conversation.messages[-1].content:
            return safety_pb2.Verdict(decision=safety_pb2.DECISION_ERROR, error_reason="GUARD_TIMEOUT")
        return verdict(request)

    fake.safety.judges["guards/large"] = often_fails
    result = invoke(str(rows), "--teacher", "large", "--out", "small", "--budget", "150")
    assert result.exit_code == 0, result.output
    assert "asked again next time: GUARD_TIMEOUT" in result.stdout
    assert "neither SAFE nor UNSAFE to the teacher" in result.stdout


def test_a_teacher_that_is_not_there_is_named(invoke: Invoke, rows: Path) -> None:
    result = invoke(str(rows), "--teacher", "larg", "--out", "small")
    assert result.exit_code == 1
    assert "no guard named 'guards/larg'" in result.stderr


def test_a_teacher_that_always_says_the_same_is_no_teacher(fake: FakeFleet, invoke: Invoke, rows: Path) -> None:
    fake.safety.judges["guards/large"] = lambda request: safety_pb2.Verdict(decision=safety_pb2.DECISION_SAFE)
    result = invoke(str(rows), "--teacher", "large", "--out", "small", "--budget", "80")
    assert result.exit_code == 1
    assert "none or all of them as unsafe" in result.stderr


def test_the_help_teaches(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for words in ("evalfleet distill-guard texts.jsonl --teacher llama-guard", "calibrate-guard", "kind: ngrams"):
        assert words in result.stdout
