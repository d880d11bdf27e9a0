"""`evalfleet report`, and the drawing of `evalfleet compare`."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.fakes.checkpoint_runs import fill
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


def test_a_report_is_one_file_named_for_its_last_run(invoke: Invoke, fake: FakeFleet, tmp_path: Path) -> None:
    fill(fake)
    result = invoke("report", "step-100", "step-1000", "--items", "20")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("report-step-1000.html: ")
    assert result.output.rstrip().endswith("KiB, 20 of 316 outcomes embedded")
    text = (tmp_path / "report-step-1000.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "20 of 316 outcomes are embedded." in text
    assert [each.name for each in tmp_path.iterdir()] == ["report-step-1000.html"]


def test_what_was_written_is_told_as_json(invoke: Invoke, fake: FakeFleet) -> None:
    fill(fake)
    result = invoke("report", "step-100", "--items", "3", "--json")
    assert json.loads(result.stdout) == {
        "file": "report-step-100.html", "embedded_count": 3, "outcome_count": 158, "figures": [],
    }  # fmt: skip


def test_a_guards_quality_is_asked_for(invoke: Invoke, fake: FakeFleet) -> None:
    fill(fake)
    result = invoke("report", "step-100", "--out", "r.html", "--items", "0", "--guard-quality", "9/10,8/10")
    assert result.exit_code == 0, result.output
    [request] = fake.aggregation.estimate_requests
    assert [(each.metric, each.unsafe_found_count) for each in request.guard_qualities] == [("unsafe", 9)]


def test_plots_are_written_as_png_and_svg(invoke: Invoke, fake: FakeFleet, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fill(fake)
    result = invoke("report", "step-100", "step-400", "step-1000", "--items", "0", "--plots", "figures")
    assert result.exit_code == 0, result.output
    names = {each.name for each in (tmp_path / "figures").iterdir()}
    assert {"cost.svg", "cost.png", "trend-gsm8k-exact_match.svg", "safety-step-01000.png"} <= names
    assert f"figures: {len(names)} figures" in result.output
    texts = [each.text for each in ET.parse(tmp_path / "figures" / "estimates-step-01000.svg").iter() if each.text]
    assert "gsm8k  exact_match" in texts
    assert (tmp_path / "figures" / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("report",), "Missing argument 'RUN...'"),
        (("report", "step-100", "step-100"), "none twice"),
        (("report", "step-100", "--out", "no/such/report.html"), "the folder no/such does not exist"),
    ],
)
def test_wrong_usage_is_told(invoke: Invoke, fake: FakeFleet, arguments: tuple[str, ...], said: str) -> None:
    fill(fake)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_an_unknown_run_leaves_no_file(invoke: Invoke, fake: FakeFleet, tmp_path: Path) -> None:
    result = invoke("report", "other")
    assert result.exit_code == 1
    assert "no run named 'runs/other'" in result.output
    assert not list(tmp_path.iterdir())


def test_differences_are_drawn(invoke: Invoke, fake: FakeFleet, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fill(fake)
    first = invoke("compare", "step-400", "step-1000", "--plot", "difference.svg")
    assert first.exit_code == 0, first.output
    drawing = (tmp_path / "difference.svg").read_bytes()
    texts = [each.text for each in ET.fromstring(drawing).iter() if each.text]
    assert "step-01000 − step-00400" in texts
    assert "harmbench  unsafe ↓" in texts
    invoke("compare", "step-400", "step-1000", "--plot", "difference.svg")
    assert (tmp_path / "difference.svg").read_bytes() == drawing


@pytest.mark.parametrize("name", ["difference.pdf", "difference", "no/such/difference.svg"])
def test_a_drawing_that_cannot_be_is_refused_before_anything_is_asked(
    invoke: Invoke, fake: FakeFleet, name: str
) -> None:
    fill(fake)
    result = invoke("compare", "step-400", "step-1000", "--plot", name)
    assert result.exit_code == 2
    assert not fake.aggregation.compare_requests


def test_without_matplotlib_the_extra_is_named(
    invoke: Invoke, fake: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    fill(fake)
    result = invoke("compare", "step-400", "step-1000", "--plot", "difference.svg")
    assert (result.exit_code, "pip install 'evalfleet[plots]'" in result.output) == (2, True)
    result = invoke("report", "step-400", "--plots", "figures")
    assert (result.exit_code, "pip install 'evalfleet[plots]'" in result.output) == (1, True)
