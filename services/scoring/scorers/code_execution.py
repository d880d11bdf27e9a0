"""Does a program that a model wrote pass its tests? Runs it in a sandbox; pass@k over several samples."""

import asyncio
import hashlib
import math
from typing import Literal

from pydantic import Field

from services.runtime.deadlines import remaining_seconds
from services.runtime.errors import FieldViolation
from services.sandbox.contract import ENDINGS, Ending, Program, Run, Sandbox
from services.sandbox.errors import SandboxBusyError
from services.scoring.code_fences import fenced_code
from services.scoring.contract import (
    MetricDescription,
    Output,
    SamplesOutput,
    Score,
    ScorerDescription,
    ScorerDetails,
    ScorerParameters,
    ScoringItem,
    TextOutput,
)
from services.scoring.details import require_details
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.text_limits import require_total_length

_NAME = "code_execution"
_LONGEST_SECONDS = 60.0
_BUSY_RUNS = 3
"""So often is a program run that hardly had a processor, each time for up to three times its limit."""
_MAX_CHARACTERS = 1_000_000
# Comes after tests that a program claims to have passed: now it must fail, or it passes whatever is tested.
_MUST_FAIL = "\nraise AssertionError\n"


class CodeExecutionParameters(ScorerParameters):
    """Which part of a text is the program, and how long it may run."""

    extract: Literal["nothing", "first_fence", "last_fence"] = Field(
        "nothing",
        description="Which Markdown code fence holds the program, of those marked Python or not at all: first_fence or "
        "last_fence; nothing: the whole text, which is also taken where there is no such fence.",
    )
    timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="Wall-clock seconds for a program and its tests; an item's own timeout_seconds goes before it.",
    )
    k: int = Field(1, ge=1, le=1000, description="k of pass_at_k and pass_power_k; needs as many samples.")
    confirm: bool = Field(
        True,
        description="Run what passed once more with a test that fails: a program that passes this too is forged.",
    )


class CodeExecutionDetails(ScorerDetails):
    """A task that tests decide."""

    tests: str | tuple[str, ...] = Field(
        description="Python that is run after the program, in its namespace, and raises where it is wrong; "
        "a list is joined with line breaks."
    )
    prompt: str = Field("", description="Python that goes before the program: HumanEval's prompt, which it completes.")
    entry_point: str = Field("", description="Function that `check` of the tests is called with, as HumanEval's are.")
    timeout_seconds: float | None = Field(
        None, gt=0, le=_LONGEST_SECONDS, description="Wall-clock seconds for this item instead of the parameter's."
    )


class CodeExecution:
    """Runs programs against tests, each in a sandbox of its own."""

    about = ScorerDescription(
        name=_NAME,
        version="1",
        description="Runs the program in a sandbox, then its tests (human-eval's order: prompt, completion, tests, "
        "check(entry_point)). pass_at_k is unbiased: 1 - C(n - c, k) / C(n, k) of n samples of which c pass (Chen et "
        "al., arXiv 2107.03374); pass_power_k is C(c, k) / C(n, k). The other metrics are shares of samples by how "
        "they ended, and each sample ends in one.",
        metrics=(
            MetricDescription("passed", "Share of the samples whose tests ran to their end."),
            MetricDescription("pass_at_k", "Probability that at least one of k samples passes, without bias."),
            MetricDescription("pass_power_k", "Probability that all of k samples pass, without bias."),
            *(
                MetricDescription(ending.value, f"Share of the samples that ended so: {text}", higher_is_better=False)
                for ending, text in ENDINGS.items()
                if ending is not Ending.PASSED
            ),
        ),
        details=CodeExecutionDetails,
    )
    parameters_type = CodeExecutionParameters

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def score(self, parameters: CodeExecutionParameters, item: ScoringItem, output: Output) -> Score:
        """Run every sample; raises what ``AsyncScorer.score`` and ``Sandbox.run`` say."""
        texts = _texts(output)
        if len(texts) < parameters.k:
            raise InvalidScoreRequestError(
                _NAME, FieldViolation("samples", f"has {len(texts)} texts; k is {parameters.k}")
            )
        details = require_details(_NAME, item, CodeExecutionDetails)
        codes = [fenced_code(text, parameters.extract) for text in texts]
        try:
            async with asyncio.TaskGroup() as group:
                runs = [group.create_task(self._ending(parameters, details, code)) for code in codes]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        endings = [run.result()[0] for run in runs]
        sandboxes = {digest for run in runs for digest in run.result()[1]}
        shares = {ending.value: endings.count(ending) / len(endings) for ending in Ending}
        passes = endings.count(Ending.PASSED)
        metrics = {
            "passed": shares.pop("passed"),
            "pass_at_k": pass_at_k(len(endings), passes, parameters.k),
            "pass_power_k": pass_power_k(len(endings), passes, parameters.k),
            **shares,
        }
        # Another Python, or other limits, may end the same programs otherwise.
        decided_by = hashlib.sha256(" ".join(sorted(sandboxes)).encode()).hexdigest()
        return Score(metrics, codes[0] if len(codes) == 1 else None, decided_by=decided_by)

    async def _ending(
        self, parameters: CodeExecutionParameters, details: CodeExecutionDetails, code: str
    ) -> tuple[Ending, set[str]]:
        """Return how a sample ends, and the digests of the sandboxes that ran it."""
        tests = details.tests if isinstance(details.tests, str) else "\n".join(details.tests)
        if details.entry_point:
            tests += f"\ncheck({details.entry_point})"
        seconds = details.timeout_seconds or parameters.timeout_seconds
        source = f"{details.prompt}{code}"
        ending, sandbox = await self._run(Program(source, tests, seconds))
        if ending is not Ending.PASSED or not parameters.confirm:
            return ending, {sandbox}
        again, other = await self._run(Program(source, tests + _MUST_FAIL, seconds))
        return (Ending.FORGED if again is Ending.PASSED else ending), {sandbox, other}

    async def _run(self, program: Program) -> tuple[Ending, str]:
        run = await self._run_in_time(program)
        return run.ending, run.sandbox_digest or (await self._sandbox.describe()).digest

    async def _run_in_time(self, program: Program) -> Run:
        """Run a program, again where others took the processor from it: alone, not with all samples of its item."""
        for _ in range(_BUSY_RUNS - 1):
            try:
                return await self._sandbox.run(program)
            except SandboxBusyError as busy:
                wait_seconds = busy.retry_after_seconds or 0.0
                left = remaining_seconds()
                if left is not None and left < wait_seconds + program.timeout_seconds:
                    raise
            await asyncio.sleep(wait_seconds)
        return await self._sandbox.run(program)


def pass_at_k(samples: int, passes: int, k: int) -> float:
    """Return the probability that at least one of k samples, drawn from these without replacement, passes."""
    return 1.0 - math.comb(samples - passes, k) / math.comb(samples, k)


def pass_power_k(samples: int, passes: int, k: int) -> float:
    """Return the probability that all of k samples, drawn from these without replacement, pass."""
    return math.comb(passes, k) / math.comb(samples, k)


def _texts(output: Output) -> tuple[str, ...]:
    match output:
        case TextOutput(text):
            require_total_length(_NAME, {"text": len(text)}, limit=_MAX_CHARACTERS)
            return (text,)
        case SamplesOutput(texts) if texts:
            for index, text in enumerate(texts):
                require_total_length(_NAME, {f"samples[{index}]": len(text)}, limit=_MAX_CHARACTERS)
            return texts
        case SamplesOutput():
            raise InvalidScoreRequestError(_NAME, FieldViolation("samples", "has no texts; give at least 1"))
        case _:
            raise InvalidScoreRequestError(
                _NAME,
                FieldViolation("output", "this scorer runs programs: set text, or samples for several of an item"),
            )
