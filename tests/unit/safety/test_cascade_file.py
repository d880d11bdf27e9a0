"""Calibration files: the service reads what the client writes, and nothing that was changed or is for other guards."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from evalfleet.calibration.document import cascade_document, document_digest, write_document
from evalfleet.calibration.fitting import JudgedRow, Promise, fit_cascade
from evalfleet.results import Guard as ClientGuard
from evalfleet.results import GuardReference as ClientReference

from services.safety.cascade_file import find_stages, read_cascade
from services.safety.errors import CascadeFileError
from services.safety.guard import Guard
from services.safety.judgement import Aspect
from tests.fakes.guard import FakeGuard

Content = dict[str, Any]


def written(folder: Path, change: Callable[[Content], object] = lambda content: None, *, seal: bool = True) -> Path:
    """Write what a calibration writes, changed by the test and sealed with a new digest."""
    source = random.Random(2)
    rows = [JudgedRow((p,), source.random() < p**4) for p in (source.random() for _ in range(2000))]
    guards = [FakeGuard("cheap"), FakeGuard("last")]
    described = [
        ClientGuard(
            name=each.about.name,
            description="",
            reference=ClientReference(**asdict(each.about.reference)),
            aspects=("prompt",),
            categories=(),
            default_threshold=0.5,
            max_tokens=None,
        )
        for each in guards
    ]
    content = cascade_document(
        "two-stage", "Cheap, then dear.", described, fit_cascade(rows, Promise(0.05, 0.1)), source="rows.jsonl"
    )
    change(content)
    if seal:
        content["digest"] = document_digest(content)
    write_document(folder / "made" / "cascade.json", content)
    return folder / "made" / "cascade.json"


def there(*guards: Guard) -> Mapping[str, Guard]:
    return {each.about.name: each for each in guards or (FakeGuard("cheap"), FakeGuard("last"))}


def test_the_service_reads_what_the_client_writes(tmp_path: Path) -> None:
    file = written(tmp_path)
    cascade = read_cascade(file)
    assert (cascade.name, cascade.promise.disagreement, cascade.promise.confidence) == ("two-stage", 0.05, 0.9)
    cheap, last = cascade.stages
    content = json.loads(file.read_text(encoding="utf-8"))
    assert (cheap.low, cheap.high) == (content["stages"][0]["low"], content["stages"][0]["high"])
    assert cheap.low is not None
    assert (last.low, last.high, last.temperature) == (None, None, 1.0)
    assert [guard.about.name for guard in find_stages(file, cascade, there())] == ["guards/cheap", "guards/last"]
    assert not list(file.parent.glob("*.partial"))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["stages"][0].update(low=0.9999),
        lambda content: content["promise"].update(disagreement=0.0001),
        lambda content: content.update(name="another"),
        lambda content: content["evidence"].update(held_out_mistakes=0),
        lambda content: content["stages"].reverse(),
    ],
)
def test_a_file_changed_by_hand_is_refused(tmp_path: Path, change: Callable[[Content], object]) -> None:
    file = written(tmp_path, change, seal=False)
    with pytest.raises(CascadeFileError) as caught:
        read_cascade(file)
    assert caught.value.reason in ("CASCADE_DIGEST_WRONG", "CASCADE_FILE_INVALID")


WRONG: dict[str, Callable[[Content], object]] = {
    "an unknown format": lambda content: content.update(format="evalfleet/cascade-calibration/2"),
    "a bad name": lambda content: content.update(name="Two Stages"),
    "one stage": lambda content: content.update(stages=content["stages"][:1]),
    "no stages": lambda content: content.pop("stages"),
    "the same guard twice": lambda content: content.update(stages=[content["stages"][0]] * 2),
    "itself as a stage": lambda content: content.update(name="cheap"),
    "a last stage that hands on": lambda content: content["stages"][1].update(low=0.1),
    "crossed thresholds": lambda content: content["stages"][0].update(low=0.9, high=0.1),
    "equal thresholds": lambda content: content["stages"][0].update(low=0.5, high=0.5),
    "safe whatever the guard says": lambda content: content["stages"][0].update(low=1.0, high=None),
    "a threshold that is no number": lambda content: content["stages"][0].update(low=float("nan")),
    "a temperature of zero": lambda content: content["stages"][0].update(temperature=0),
    "an infinite temperature": lambda content: content["stages"][0].update(temperature=float("inf")),
    "no promise": lambda content: content.pop("promise"),
}


@pytest.mark.parametrize("name", WRONG)
def test_nonsense_is_refused_although_it_is_sealed(tmp_path: Path, name: str) -> None:
    with pytest.raises(CascadeFileError) as caught:
        read_cascade(written(tmp_path, WRONG[name]))
    assert caught.value.reason == "CASCADE_FILE_INVALID"
    assert "cascade.json" in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"format": 1}', "\x00", "[" * 100_000])
def test_what_is_no_calibration_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(CascadeFileError):
        read_cascade(tmp_path / "c.json")


def test_a_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(CascadeFileError, match="calibrate-guard") as caught:
        read_cascade(tmp_path / "none.json")
    assert caught.value.reason == "CASCADE_FILE_NOT_FOUND"


@pytest.mark.parametrize("field", ["weights_digest", "template_digest", "calibration_digest", "engine", "dtype"])
@pytest.mark.parametrize("which", ["cheap", "last"])
def test_another_guard_than_the_calibrated_one_is_refused(tmp_path: Path, which: str, field: str) -> None:
    file = written(tmp_path)
    guards = {name: FakeGuard(name) for name in ("cheap", "last")}
    about = guards[which].about
    guards[which]._about = replace(about, reference=replace(about.reference, **{field: "0" * 64}))
    with pytest.raises(CascadeFileError, match=field) as caught:
        find_stages(file, read_cascade(file), there(*guards.values()))
    assert caught.value.reason == "CASCADE_GUARD_DIFFERS"
    assert caught.value.metadata["guard"] == f"guards/{which}"


def test_a_guard_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    file = written(tmp_path)
    with pytest.raises(CascadeFileError, match="did you mean 'guards/chep'") as caught:
        find_stages(file, read_cascade(file), there(FakeGuard("chep"), FakeGuard("last")))
    assert caught.value.reason == "CASCADE_GUARD_MISSING"


def test_guards_without_a_common_aspect_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path)
    guards = there(FakeGuard("cheap", aspects=(Aspect.PROMPT,)), FakeGuard("last", aspects=(Aspect.RESPONSE,)))
    with pytest.raises(CascadeFileError, match="aspect"):
        find_stages(file, read_cascade(file), guards)
