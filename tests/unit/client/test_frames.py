"""Results as tables: one row each, the same columns and types whatever is in them, in three libraries."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from evalfleet import frames
from evalfleet.answers import Answer
from evalfleet.errors import EvalFleetError, InvalidArgumentError, MissingExtraError
from evalfleet.estimate_results import CorrectedRate, Estimate, Interval, JudgeReference
from evalfleet.item_results import ItemFailure, ItemResult, ItemUsage
from evalfleet.results import Decision, HazardScore, Verdict
from evalfleet.scorer_results import Score, ScorerReference

WRONG = InvalidArgumentError("is empty", reason="TEXT_EMPTY")
UNSAFE = Verdict(
    decision=Decision.UNSAFE,
    unsafe_probability=0.9,
    categories=(HazardScore("t", "violence", "vcr", 0.9), HazardScore("t", "cats", "", None)),
    guard="guards/g",
    threshold=0.5,
    truncated=False,
    error_reason="",
)
SCORER = ScorerReference("scorers/exact_match", "1", "d")
SCORES: list[tuple[int, Score | EvalFleetError]] = [
    (1, Score({"exact_match": 1.0}, "Paris", SCORER)),
    (0, WRONG),
    (2, Score({"exact_match": 0.0, "f1": 0.25}, None, SCORER)),
]
ITEM = ItemResult(
    run="runs/r1",
    task="t",
    item="i1",
    sample=0,
    draw_index=3,
    groups={"subject": "law"},
    metrics={"acc": 1.0},
    failures=(),
    extracted_answer="A",
    prompt="Q",
    output="A",
    targets=("A", "a"),
    judges=(JudgeReference("scorers/x", "1", "d"),),
    model_digest="m",
    usage=ItemUsage(prompt_tokens=7, cost_usd=0.5),
    truncated=False,
    complete_time=datetime(2026, 1, 2, tzinfo=UTC),
)
FAILED = replace(
    ITEM, item="i2", groups={}, metrics={}, failures=(ItemFailure("PROMPT_TOO_LONG", "600"),), complete_time=None
)
INTERVAL = Interval(0.4, 0.6, 0.95, "wilson")
ESTIMATE = Estimate("t", "acc", "", 0.5, INTERVAL, None, 10, 1, 0, 0.5, 1, CorrectedRate(None, INTERVAL))


def test_a_verdict_is_a_row_and_so_is_an_error() -> None:
    table = frames.verdicts([(0, UNSAFE), (1, WRONG)])
    first, second = table.to_polars().to_dicts()
    assert (first["decision"], first["hazards"], first["refusal"]) == ("unsafe", ["vcr", "t/cats"], None)
    assert (second["index"], second["decision"], second["error"]) == (1, None, "TEXT_EMPTY")


def test_each_metric_has_a_column_and_rows_without_it_have_none() -> None:
    frame = frames.scores(iter(SCORES)).to_polars()
    assert frame["metrics.exact_match"].to_list() == [1.0, None, 0.0]
    assert frame["metrics.f1"].to_list() == [None, None, 0.25]
    assert frame["index"].to_list() == [1, 0, 2]


def test_an_answer_keeps_all_its_samples() -> None:
    answer = Answer(("a", "b"), ("stop", "length"), 3, 4, "d", is_cached=True)
    [row] = frames.answers([(0, answer)]).to_arrow().to_pylist()
    assert (row["text"], row["texts"], row["finish_reasons"]) == ("a", ["a", "b"], ["stop", "length"])


def test_items_have_their_groups_metrics_and_failures() -> None:
    first, second = frames.items([ITEM, FAILED]).to_arrow().to_pylist()
    assert (first["groups.subject"], first["metrics.acc"], first["targets"]) == ("law", 1.0, ["A", "a"])
    assert (first["complete_time"], first["failure"]) == (datetime(2026, 1, 2, tzinfo=UTC), None)
    assert (second["groups.subject"], second["metrics.acc"], second["failure"]) == (None, None, "PROMPT_TOO_LONG")


def test_estimates_have_the_bounds_of_their_intervals() -> None:
    bare = replace(ESTIMATE, interval=None, value=None)
    first, second = frames.estimates([ESTIMATE, bare]).to_polars().to_dicts()
    assert (first["lower"], first["upper"], first["method"], first["corrected_value"]) == (0.4, 0.6, "wilson", None)
    assert (second["value"], second["lower"], second["corrected_upper"]) == (None, None, 0.6)


TABLES = {
    "verdicts": frames.verdicts([(0, UNSAFE), (1, WRONG)]),
    "scores": frames.scores(SCORES),
    "items": frames.items([ITEM, FAILED]),
    "estimates": frames.estimates([ESTIMATE]),
    "only errors": frames.verdicts([(0, WRONG)]),
    "nothing": frames.items([]),
}


@pytest.mark.parametrize("name", TABLES)
def test_three_libraries_show_the_same_rows(name: str) -> None:
    table = TABLES[name]
    arrow, frame, data_frame = table.to_arrow(), table.to_polars(), table.to_pandas()
    assert arrow.to_pylist() == frame.to_dicts()
    assert list(data_frame.columns) == frame.columns == arrow.column_names
    told: list[dict[str, Any]] = data_frame.astype(object).where(data_frame.notna(), None).to_dict("records")
    assert told == frame.to_dicts()


@pytest.mark.parametrize("make", [frames.verdicts, frames.scores, frames.answers, frames.items, frames.estimates])
def test_columns_and_types_do_not_depend_on_what_is_there(make: Any) -> None:
    empty = make([])
    assert empty.to_arrow().num_rows == 0
    assert empty.to_polars().height == len(empty.to_pandas()) == 0
    assert pa.null() not in empty.to_arrow().schema.types
    assert pl.Null not in empty.to_polars().dtypes
    if make is frames.verdicts:
        full = make([(0, UNSAFE), (1, WRONG)])
        assert full.to_arrow().schema == empty.to_arrow().schema
        assert full.to_polars().schema == empty.to_polars().schema
        assert list(full.to_pandas().dtypes) == list(empty.to_pandas().dtypes)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    table = frames.verdicts([(0, UNSAFE)])
    with pytest.raises(MissingExtraError, match=rf"{library} is not installed: pip install {library}.*frames"):
        {"pandas": table.to_pandas, "polars": table.to_polars, "pyarrow": table.to_arrow}[library]()


def test_no_library_is_loaded_before_it_is_asked_for() -> None:
    program = "import sys; from evalfleet import frames; frames.items([]); print({'pandas', 'polars'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
