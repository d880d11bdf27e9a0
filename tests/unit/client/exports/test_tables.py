"""Items and estimates as CSV and Parquet, read back by those who will read them."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from evalfleet.exports import ExportedRun, ExportError, UnknownFormatError, export, format_named
from evalfleet.exports.csv_tables import write as write_csv
from evalfleet.exports.files import whole_file
from evalfleet.exports.parquet_tables import write as write_parquet
from evalfleet.fleet import Fleet

from tests.fakes.checkpoint_runs import HOSTILE, SUITE, estimates
from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet


def test_csv_gives_back_every_item_and_estimate(exported: ExportedRun, tmp_path: Path) -> None:
    items, figures = write_csv(exported, tmp_path)
    with items.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (items.name, len(rows)) == ("step-1000_items.csv", 158)
    by_item = {(each["task"], each["item"]): each for each in rows}
    failed = by_item["gsm8k", "gsm8k-0000"]
    assert (failed["failure_reason"], failed["metric_exact_match"]) == ("PROMPT_TOO_LONG", "")
    assert json.loads(failed["counted_as_json"]) == {"exact_match": 0.0}
    right = by_item["gsm8k", "gsm8k-0002"]
    assert (right["metric_exact_match"], right["targets_json"], right["cost_usd"]) == ("1.0", '["7"]', "0.000137")
    hostile = by_item["harmbench", "behavior 0 <b>bold</b>"]
    assert (hostile["output"], hostile["group_hazard"]) == (HOSTILE, "violent_crimes")
    with figures.open(encoding="utf-8", newline="") as file:
        told = list(csv.DictReader(file))
    assert [(each["task"], each["metric"], each["group"], float(each["value"])) for each in told] == [
        (each.task, each.metric, each.group, each.value) for each in estimates(1000).estimates
    ]


def test_parquet_says_the_same_with_types(exported: ExportedRun, tmp_path: Path) -> None:
    items, figures = write_parquet(exported, tmp_path)
    table = pq.read_table(items)
    rows = table.to_pylist()
    assert len(rows) == 158
    assert rows[0]["metric_exact_match"] is None
    assert sum(each["metric_exact_match"] or 0 for each in rows) == sum(
        (each.value("exact_match") or 0) for each in exported.read("gsm8k")
    )
    assert table.schema.metadata[b"evalfleet.run"] == b"runs/step-1000"
    assert str(table.schema.field("metric_unsafe").type) == "double"
    assert pq.read_table(figures).column("upper").to_pylist() == [
        each.interval.upper for each in estimates(1000).estimates
    ]


def test_a_run_that_goes_on_is_not_exported(fake: FakeFleet, fleet: Fleet, tmp_path: Path) -> None:
    fake.evaluation.put(make_run("going"))
    with pytest.raises(ExportError, match="wait until it has ended") as caught:
        export(fleet, "going", "csv", tmp_path)
    assert caught.value.reason == "RUN_IN_PROGRESS"
    assert not list(tmp_path.iterdir())


def test_a_suite_that_is_known_no_more_leaves_the_numbers(fake: FakeFleet, fleet: Fleet, tmp_path: Path) -> None:
    del fake.evaluation.suites[SUITE]
    assert len(export(fleet, "step-1000", "csv", tmp_path)) == 2


def test_an_unknown_format_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownFormatError, match="did you mean 'parquet'"):
        format_named("parket")


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.csv"

    def broken() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert not list(path.parent.iterdir())
    with whole_file(path) as partial:
        partial.write_text("whole")
    assert [each.name for each in path.parent.iterdir()] == ["file.csv"]
