"""Between programs as plain values and the code runner's messages."""

from typing import Final

from evalfleet.code_runner.v1 import code_runner_pb2
from evalfleet.program_results import Ending, ProgramRun, Sandbox

PROGRAM_TIMEOUT_SECONDS: Final = 10.0
WAIT_SECONDS: Final = 90.0
"""A program may wait a minute for its turn, and a call be repeated."""

_ENDINGS = {
    code_runner_pb2.ENDING_PASSED: Ending.PASSED,
    code_runner_pb2.ENDING_WRONG: Ending.WRONG,
    code_runner_pb2.ENDING_EXCEPTION: Ending.EXCEPTION,
    code_runner_pb2.ENDING_SYNTAX_ERROR: Ending.SYNTAX_ERROR,
    code_runner_pb2.ENDING_EXITED_EARLY: Ending.EXITED_EARLY,
    code_runner_pb2.ENDING_FORGED: Ending.FORGED,
    code_runner_pb2.ENDING_TIMED_OUT: Ending.TIMED_OUT,
    code_runner_pb2.ENDING_MEMORY_LIMIT: Ending.MEMORY_LIMIT,
    code_runner_pb2.ENDING_PROCESS_LIMIT: Ending.PROCESS_LIMIT,
    code_runner_pb2.ENDING_OUTPUT_LIMIT: Ending.OUTPUT_LIMIT,
    code_runner_pb2.ENDING_KILLED: Ending.KILLED,
}


def run_request(source: str, tests: str, timeout_seconds: float) -> code_runner_pb2.RunProgramRequest:
    """Ask for a program to be run."""
    request = code_runner_pb2.RunProgramRequest(source=source, tests=tests)
    request.timeout.FromNanoseconds(round(timeout_seconds * 1e9))
    return request


def sandbox_request() -> code_runner_pb2.GetSandboxRequest:
    """Ask what programs are run in."""
    return code_runner_pb2.GetSandboxRequest(name="sandbox")


def program_run(message: code_runner_pb2.RunProgramResponse) -> ProgramRun:
    """Translate what became of a program."""
    return ProgramRun(
        ending=_ENDINGS.get(message.ending, Ending.UNKNOWN),
        explanation=message.explanation,
        output=message.output,
        run_seconds=message.run_time.ToNanoseconds() / 1e9,
        sandbox_digest=message.sandbox_digest,
    )


def sandbox(message: code_runner_pb2.Sandbox) -> Sandbox:
    """Translate what programs are run in."""
    limits = message.limits
    return Sandbox(
        boundary=message.boundary,
        python_version=message.python_version,
        programs=message.programs,
        measures=tuple(message.measures),
        digest=message.digest,
        memory_bytes=limits.memory_bytes,
        files_bytes=limits.files_bytes,
        processes=limits.processes,
        open_files=limits.open_files,
        output_bytes=limits.output_bytes,
    )
