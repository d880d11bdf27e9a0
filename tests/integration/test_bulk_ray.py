"""Bulk work on a local Ray with two workers, against a fleet's real safety service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from evalfleet.cli.app import cli
from evalfleet.ray import BulkJob, BulkProgress, Classify, ClassifyQuestion, Layout, run_bulk
from evalfleet.ray.running import started_ray

from services.standalone.testing import RunningFleet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROWS, PIECE_ROWS = 240, 40
PIECES = ROWS // PIECE_ROWS


class StoppedError(Exception):
    """The job's process was stopped in the middle."""


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    with started_ray(workers=2):
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"id": index, "answer": f"Mix {index} grams of flour with water."} for index in range(ROWS - 2)]
    rows += [{"id": ROWS - 2, "answer": None}, {"id": ROWS - 1, "answer": "I will kill you and your family."}]
    file = tmp_path_factory.mktemp("texts") / "texts.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=100)
    return file


def test_a_job_that_was_stopped_goes_on_and_each_row_has_one_result(
    fleet: RunningFleet, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "verdicts"
    question = ClassifyQuestion(columns={"text": "answer"})
    job = BulkJob(question, (str(texts),), str(out), Layout(piece_rows=PIECE_ROWS))

    def stop(progress: BulkProgress) -> None:
        if progress.finished_pieces:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_bulk(job, targets=fleet.endpoints, workers=2, report=stop)
    # A worker may have been killed while it wrote.
    (out / ".part-000000.parquet.dead").write_text("half")
    before = {each.name: each.stat().st_mtime_ns for each in out.glob("part-*.parquet")}
    assert 0 < len(before) <= PIECES

    options = ["--json", "-", f"--piece-rows={PIECE_ROWS}", "--column=text=answer", "--workers=2"]
    told = CliRunner().invoke(
        cli, [f"--state-dir={fleet.state_dir}", "bulk", "classify", str(texts), f"--out={out}", *options]
    )
    assert told.exit_code == 1, told.output
    summary = json.loads(told.stdout)
    assert (summary["rows"], summary["failed"], summary["pieces"]) == (ROWS, 1, PIECES)
    assert summary["resumed_pieces"] >= len(before)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert not list(out.glob(".part-*"))

    verdicts = {each["id"]: each for each in pq.read_table(out).to_pylist()}
    assert pq.read_table(out).num_rows == len(verdicts) == ROWS
    assert [verdicts[each]["source_position"] for each in range(ROWS)] == list(range(ROWS))
    assert verdicts[ROWS - 1]["decision"] == "unsafe"
    assert (verdicts[ROWS - 2]["decision"], verdicts[ROWS - 2]["error_reason"]) == (None, "ROW_INVALID")
    assert all(verdicts[each]["decision"] == "safe" for each in range(ROWS - 2))


def test_rows_of_any_data_set_of_ray_are_classified(fleet: RunningFleet, texts: Path) -> None:
    import ray.data

    answered = (
        ray.data.read_parquet(str(texts))
        .repartition(4)
        .map_batches(
            Classify,
            fn_constructor_kwargs={"columns": {"text": "answer"}, "targets": fleet.endpoints},
            batch_format="pyarrow",
            batch_size=64,
            compute=ray.data.ActorPoolStrategy(size=2),
            num_cpus=0.25,
        )
    )
    found = {each["id"]: each["decision"] for each in answered.take_all()}
    assert len(found) == ROWS
    assert (found[0], found[ROWS - 2], found[ROWS - 1]) == ("safe", None, "unsafe")
