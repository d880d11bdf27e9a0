import io

import pytest
from evalfleet import decoding
from evalfleet.cli.progress import follow
from evalfleet.cli.session import make_console
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.results import RunSnapshot
from rich.console import Console

from tests.fakes.demo_run import demo_estimates, demo_suite, make_run


def snapshot(run: evaluation_pb2.Run) -> RunSnapshot:
    return RunSnapshot(decoding.run(run), tuple(decoding.estimate(each) for each in demo_estimates()), ())


def test_a_terminal_shows_a_bar_a_task_with_its_metric_and_failures() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    unread = make_run()
    unread.tasks[1].ClearField("item_count")
    last = follow(
        [snapshot(unread), snapshot(make_run(done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED))],
        console,
        decoding.suite(demo_suite()),
    )
    assert last is not None
    assert isinstance(console.file, io.StringIO)
    final = console.file.getvalue().split("\x1b[2K")[-1]
    (arithmetic,) = [line for line in final.splitlines() if line.startswith("arithmetic")]
    assert "10/10" in arithmetic
    assert "exact_match 0.750" in arithmetic
    assert "1 failed" in arithmetic
    assert "unsafe_rate 0.125" in final


def test_progress_says_how_many_items_a_judge_gave_no_verdict_on() -> None:
    estimates = demo_estimates()
    estimates[0].unjudged_count, estimates[1].unjudged_count = 3, 2
    told = RunSnapshot(decoding.run(make_run(done=4)), tuple(decoding.estimate(each) for each in estimates), ())
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120, color_system=None)
        follow([told], console, decoding.suite(demo_suite()))
        assert isinstance(console.file, io.StringIO)
        assert "3 not judged" in console.file.getvalue()


def test_lines_come_for_changes_of_state_and_each_fifth_of_the_items() -> None:
    console = Console(file=io.StringIO(), width=120)
    runs = [make_run(state=evaluation_pb2.RUN_STATE_PENDING)]
    runs += [make_run(done=done) for done in range(10)]
    runs += [make_run(done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED)]
    follow([snapshot(each) for each in runs], console, None)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "runs/r1: pending",
        "runs/r1: running",
        "runs/r1: 4/18 items, 1 failed",
        "runs/r1: 8/18 items, 1 failed",
        "runs/r1: succeeded",
        "runs/r1: 18/18 items, 1 failed",
    ]


def test_a_pipe_gets_wide_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console()
    console.print("[bold]x[/bold] " + "y" * 150)
    assert capsys.readouterr().out == "x " + "y" * 150 + "\n"
