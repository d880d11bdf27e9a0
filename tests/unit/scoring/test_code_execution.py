"""The scorer of programs: what it runs, what it makes of how they end, and pass@k."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from services.runtime.deadlines import bind_deadline
from services.sandbox.contract import Ending, Program
from services.sandbox.errors import SandboxBusyError, SandboxUnavailableError
from services.scoring.contract import ChoicesOutput, Output, SamplesOutput, Score, ScoringItem, TextOutput
from services.scoring.errors import InvalidScoreRequestError, TextTooLongError
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.scorers.code_execution import pass_at_k, pass_power_k
from tests.fakes.sandbox import FakeSandbox


def honest(program: Program) -> Ending:
    """Ends in what the source's last word says; fails where the tests must."""
    ending = Ending(program.source.split()[-1])
    return Ending.WRONG if ending is Ending.PASSED and program.tests.endswith("raise AssertionError\n") else ending


async def score(sandbox: FakeSandbox | None, output: Output, item: ScoringItem, **parameters: object) -> Score:
    return (
        await ScorerRegistry(builtin_scorers(sandbox))
        .bind("scorers/code_execution", parameters)
        .score_async(item, output)
    )


def item(**details: JsonValue) -> ScoringItem:
    return ScoringItem(details={"tests": "assert f()", **details})


async def test_a_program_is_prompt_and_completion_and_its_tests_call_the_entry_point() -> None:
    sandbox = FakeSandbox(honest)
    given_item = item(prompt="def f():\n", tests="def check(f): assert f()", entry_point="f", timeout_seconds=2.5)
    scored = await score(sandbox, TextOutput("    return 1 # passed"), given_item, confirm=False)
    assert sandbox.programs == [
        Program("def f():\n    return 1 # passed", "def check(f): assert f()\ncheck(f)", timeout_seconds=2.5)
    ]
    assert scored.extracted_answer == "    return 1 # passed"
    assert [name for name, value in scored.metrics.items() if value] == ["passed", "pass_at_k", "pass_power_k"]


@pytest.mark.parametrize("ending", [ending for ending in Ending if ending is not Ending.PASSED])
async def test_each_ending_is_a_metric_of_its_own(ending: Ending) -> None:
    scored = await score(FakeSandbox(honest), TextOutput(f"# {ending.value}"), item())
    assert {name: value for name, value in scored.metrics.items() if value} == {ending.value: 1.0}
    about = ScorerRegistry(builtin_scorers()).find("scorers/code_execution").about
    assert list(scored.metrics) == [metric.name for metric in about.metrics]


async def test_what_passes_a_test_that_must_fail_is_forged() -> None:
    assert (await score(FakeSandbox(lambda _: Ending.PASSED), TextOutput(""), item())).metrics["forged"] == 1.0
    assert (await score(FakeSandbox(honest), TextOutput("# passed"), item())).metrics["passed"] == 1.0
    slow = FakeSandbox(lambda program: Ending.TIMED_OUT if "raise" in program.tests else Ending.PASSED)
    assert (await score(slow, TextOutput(""), item())).metrics["passed"] == 1.0


async def test_samples_are_scored_together() -> None:
    texts = ("# passed", "# wrong", "# passed", "# timed_out")
    scored = await score(FakeSandbox(honest), SamplesOutput(texts), item(), k=2)
    assert scored.metrics["passed"] == 0.5
    assert scored.metrics["wrong"] == scored.metrics["timed_out"] == 0.25
    assert scored.metrics["pass_at_k"] == pytest.approx(1 - 1 / 6)
    assert scored.metrics["pass_power_k"] == pytest.approx(1 / 6)
    assert scored.extracted_answer is None


async def test_a_fence_is_taken_out_where_that_is_asked_for() -> None:
    text = "Sure:\n```python\n# passed\n```"
    assert (await score(FakeSandbox(honest), TextOutput(text), item(), extract="first_fence")).metrics["passed"] == 1.0


@pytest.mark.parametrize(
    ("output", "details", "parameters", "field"),
    [
        (SamplesOutput(()), {"tests": ""}, {}, "samples"),
        (SamplesOutput(("a",)), {"tests": ""}, {"k": 2}, "samples"),
        (TextOutput("a"), {"tests": ""}, {"k": 2}, "samples"),
        (ChoicesOutput((0.0,), ("a",)), {"tests": ""}, {}, "output"),
        (TextOutput("a"), {}, {}, "details.tests"),
        (TextOutput("a"), {"tests": "", "timeout_seconds": 61}, {}, "details.timeout_seconds"),
    ],
)
async def test_a_request_that_cannot_be_run_is_refused(
    output: Output, details: dict[str, JsonValue], parameters: dict[str, object], field: str
) -> None:
    sandbox = FakeSandbox(honest)
    with pytest.raises(InvalidScoreRequestError) as caught:
        await score(sandbox, output, ScoringItem(details=details), **parameters)
    assert field in {violation.field for violation in caught.value.field_violations}
    assert sandbox.programs == []


@pytest.mark.parametrize(
    ("output", "field"),
    [(TextOutput("a" * 1_000_001), "text"), (SamplesOutput(("a", "a" * 1_000_001)), "samples[1]")],
)
async def test_a_text_that_is_too_long_is_no_program(output: Output, field: str) -> None:
    sandbox = FakeSandbox(honest)
    with pytest.raises(TextTooLongError) as caught:
        await score(sandbox, output, item())
    assert [violation.field for violation in caught.value.field_violations] == [field]
    assert sandbox.programs == []


def busy_with(name: str, times: int) -> FakeSandbox:
    """A sandbox in which a program that has this name hardly has a processor, so often."""
    left = times

    def decide(program: Program) -> Ending:
        nonlocal left
        if name in program.source and left:
            left -= 1
            raise SandboxBusyError("busy", retry_after_seconds=0.001)
        return honest(program)

    return FakeSandbox(decide)


async def test_a_program_that_hardly_had_a_processor_is_run_again_alone() -> None:
    sandbox = busy_with("slow", times=2)
    texts = ("# passed", "# slow wrong", "# timed_out")
    scored = await score(sandbox, SamplesOutput(texts), item(), confirm=False)
    assert scored.metrics["passed"] == scored.metrics["wrong"] == scored.metrics["timed_out"] == pytest.approx(1 / 3)
    sources = [program.source for program in sandbox.programs]
    assert [sources.count(text) for text in texts] == [1, 3, 1]


@pytest.mark.parametrize(("seconds_left", "runs"), [(None, 3), (3600.0, 3), (1.0, 1)])
async def test_a_program_that_never_has_a_processor_is_run_a_few_times_within_the_deadline(
    seconds_left: float | None, runs: int
) -> None:
    sandbox = busy_with("slow", times=99)
    with bind_deadline(seconds_left), pytest.raises(SandboxBusyError):
        await score(sandbox, TextOutput("# slow wrong"), item())
    assert len(sandbox.programs) == runs


async def test_what_programs_ran_in_is_a_part_of_who_judged() -> None:
    one, same, newer = FakeSandbox(honest), FakeSandbox(honest), FakeSandbox(honest)
    newer.description = replace(newer.description, python_version="3.12.0")
    several, mixed = FakeSandbox(honest), FakeSandbox(honest)
    several.digests = [newer.description.digest] * 2
    mixed.digests = [newer.description.digest, one.description.digest]
    told = [
        (await score(each, TextOutput("# passed"), item())).decided_by for each in (one, same, newer, several, mixed)
    ]
    assert told[0] == told[1]
    assert told[2] == told[3]
    assert len({told[0], told[2], told[4]}) == 3
    assert all(told)


async def test_without_a_sandbox_nothing_is_run() -> None:
    with pytest.raises(SandboxUnavailableError) as caught:
        await score(None, SamplesOutput(("# passed",) * 3), item())
    assert caught.value.reason == "SANDBOX_UNAVAILABLE"


@given(st.integers(1, 200), st.data())
def test_pass_at_k_is_human_evals_formula(samples: int, data: st.DataObject) -> None:
    passes, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    # Chen et al. 2021 compute the product, so that no large number appears; ours are whole numbers.
    rest = range(samples - passes + 1, samples + 1)
    product = 1.0 if samples - passes < k else 1.0 - math.prod(1.0 - k / n for n in rest)
    assert pass_at_k(samples, passes, k) == pytest.approx(product, abs=1e-12)
    assert pass_power_k(samples, passes, k) == pytest.approx(1 - pass_at_k(samples, samples - passes, k), abs=1e-12)
