"""Cascades of the guards file: built from the guards that are there, or refused with what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
from evalfleet.calibration.document import document_digest
from prometheus_client import CollectorRegistry

from services.safety.cascade import CascadeMetrics
from services.safety.cascade_building import build_cascades
from services.safety.errors import CascadeFileError, GuardFileError
from services.safety.guard import Guard
from services.safety.guards_file import CascadeEntry, read_guards_file
from services.safety.judgement import Decision
from tests.fakes.guard import FakeGuard, prompts


def write_calibration(folder: Path, name: str, *stages: str) -> None:
    digests = {"weights_digest": "w" * 64, "template_digest": "t" * 64, "calibration_digest": "c" * 64}
    digests |= {"engine": "fake", "dtype": "float32"}
    told: list[dict[str, Any]] = [{"guard": f"guards/{each}", **digests} for each in stages]
    told[0] |= {"low": 0.2, "high": 0.8}
    content: dict[str, Any] = {
        "format": "evalfleet/cascade-calibration/1",
        "name": name,
        "description": "Cheap, then dear.",
        "promise": {"disagreement": 0.02, "confidence": 0.9},
        "stages": told,
    }
    content["digest"] = document_digest(content)
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def write_guards(folder: Path, *entries: str) -> Path:
    file = folder / "guards.yaml"
    file.write_text("guards:\n" + "".join(f"  - {{{each}}}\n" for each in entries), encoding="utf-8")
    return file


async def build(file: Path) -> list[Guard]:
    return await build_cascades(file, [FakeGuard("cheap"), FakeGuard("last")], CascadeMetrics(CollectorRegistry()))


async def test_a_cascade_is_built_beside_the_guards_file(tmp_path: Path) -> None:
    write_calibration(tmp_path, "two", "cheap", "last")
    file = write_guards(tmp_path, "name: refusals, kind: refusal", "name: two, kind: cascade, calibration: two.json")
    [_, entry] = read_guards_file(file)
    assert isinstance(entry, CascadeEntry)
    assert entry.calibration == tmp_path / "two.json"
    [guard] = await build(file)
    assert guard.about.name == "guards/two"
    assert guard.about.description.startswith("Cheap, then dear. With confidence 0.9, at most 0.02 of texts")
    verdicts = await guard.judge(prompts("0.1", "0.6"))
    assert [each.decision for each in verdicts] == [Decision.SAFE, Decision.UNSAFE]


async def test_the_guards_file_may_describe_it(tmp_path: Path) -> None:
    write_calibration(tmp_path, "two", "cheap", "last")
    [guard] = await build(
        write_guards(tmp_path, "name: two, kind: cascade, calibration: two.json, description: For chats.")
    )
    assert guard.about.description.startswith("For chats. With confidence")


async def test_a_name_that_differs_from_the_calibrations_is_refused(tmp_path: Path) -> None:
    write_calibration(tmp_path, "two", "cheap", "last")
    with pytest.raises(GuardFileError, match="guard 'pair': is called 'two' in"):
        await build(write_guards(tmp_path, "name: pair, kind: cascade, calibration: two.json"))


async def test_a_cascade_is_no_stage_of_another(tmp_path: Path) -> None:
    write_calibration(tmp_path, "two", "cheap", "last")
    write_calibration(tmp_path, "three", "two", "last")
    entries = [f"name: {name}, kind: cascade, calibration: {name}.json" for name in ("two", "three")]
    with pytest.raises(CascadeFileError, match="this service has no 'guards/two'"):
        await build(write_guards(tmp_path, *entries))


async def test_a_missing_calibration_is_named(tmp_path: Path) -> None:
    with pytest.raises(CascadeFileError, match=r"there is no calibration file .*none\.json"):
        await build(write_guards(tmp_path, "name: two, kind: cascade, calibration: none.json"))


def test_a_cascade_needs_its_calibration(tmp_path: Path) -> None:
    with pytest.raises(GuardFileError, match=r"guards\[0\]\.calibration: Field required"):
        read_guards_file(write_guards(tmp_path, "name: two, kind: cascade"))
