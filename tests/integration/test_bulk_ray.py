"""Bulk work on a local Ray with two workers, against a fleet's real safety service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from evalfleet.cli.app import cli
from evalfleet.ray import Classify, Generate, Score
from evalfleet.ray.output import BulkFolder, PieceCounts
from evalfleet.ray.running import started_ray

from services.standalone.testing import RunningFleet
from tests.fakes.generation_service import GenerationServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROWS, PIECE_ROWS = 240, 40
PIECES = ROWS // PIECE_ROWS


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
    fleet: RunningFleet, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "verdicts"
    options = ["--json", "-", f"--piece-rows={PIECE_ROWS}", "--column=text=answer", "--workers=2"]
    command = [f"--state-dir={fleet.state_dir}", "bulk", "classify", str(texts), f"--out={out}", *options]

    def interrupt(folder: BulkFolder, number: int) -> PieceCounts:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        # As Ctrl-C does it, when the first piece has been told of.
        during.setattr(BulkFolder, "counts", interrupt)
        stopped = CliRunner().invoke(cli, command)
    assert stopped.exit_code == 130, stopped.output
    assert "The same command goes on" in stopped.output
    # A worker may have been killed while it wrote.
    (out / ".part-000000.parquet.dead").write_text("half")
    before = {each.name: each.stat().st_mtime_ns for each in out.glob("part-*.parquet")}
    assert 0 < len(before) <= PIECES

    told = CliRunner().invoke(cli, command)
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


def test_rows_are_answered_and_the_answers_scored_in_one_pipeline(fleet: RunningFleet) -> None:
    """The scoring service is the fleet's; the model says back what it is asked."""
    import ray.data

    rows: list[dict[str, str | None]] = [
        {"prompt": f"p{number}", "right": f"p{number}#0" if number % 3 else "no"} for number in range(60)
    ]
    rows.append({"prompt": None, "right": "x"})
    with GenerationServer() as generation:
        answered = (
            ray.data.from_items(rows, override_num_blocks=4)
            .map_batches(
                Generate,
                fn_constructor_kwargs={"model": "step-100", "targets": {"generation": generation.target}},
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=1),
                num_cpus=0.25,
            )
            .map_batches(
                Score,
                fn_constructor_kwargs={
                    "scorer": "exact_match",
                    "columns": {"text": "answer", "targets": "right"},
                    "targets": fleet.endpoints,
                    "prefix": "score_",
                },
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=1),
                num_cpus=0.25,
            )
        )
        found = {each["prompt"]: each for each in answered.take_all()}
    assert len(found) == 61
    for number in range(60):
        row = found[f"p{number}"]
        assert (row["answer"], row["completion_tokens"], row["error_reason"]) == (f"p{number}#0", 2, None)
        assert dict(row["score_metrics"]) == {"exact_match": float(number % 3 > 0)}
    assert (found[None]["answer"], found[None]["error_reason"]) == (None, "ROW_INVALID")
    assert found[None]["score_error_reason"]
