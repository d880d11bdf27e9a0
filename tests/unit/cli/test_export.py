"""`evalfleet export`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.fakes.checkpoint_runs import fill
from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def filled(fake: FakeFleet) -> FakeFleet:
    fill(fake)
    return fake


def test_the_files_are_named_with_their_sizes(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("export", "step-100", "--format", "csv")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0].startswith("exported/step-100_items.csv: ")
    assert {each.name for each in (tmp_path / "exported").iterdir()} == {"step-100_items.csv", "step-100_estimates.csv"}


def test_who_published_what_is_told(invoke: Invoke) -> None:
    result = invoke(
        "export", "step-100", "--format", "every-eval-ever", "--out", "x", "--developer", "me", "--organization", "Us",
        "--relationship", "third_party", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    aggregate = json.loads(result.stdout)[0]
    assert aggregate["file"].startswith("x/data/release/me/step-00100/")
    source = json.loads(Path(aggregate["file"]).read_text())["source_metadata"]
    assert (source["source_organization_name"], source["evaluator_relationship"]) == ("Us", "third_party")
    assert Path(aggregate["file"]).stat().st_size == aggregate["bytes"]


def test_a_run_that_goes_on_is_refused(invoke: Invoke, fake: FakeFleet) -> None:
    fake.evaluation.put(make_run("going"))
    result = invoke("export", "going", "--format", "csv")
    assert result.exit_code == 1
    assert "evalfleet watch going" in result.output


def test_an_absent_package_is_named_with_its_extra(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    result = invoke("export", "step-100", "--format", "parquet")
    assert result.exit_code == 1
    assert "pip install 'evalfleet[parquet]'" in result.output
