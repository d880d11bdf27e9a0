"""Translate between the code runner's messages and the sandbox's."""

from typing import Final

from evalfleet.code_runner.v1 import code_runner_pb2
from google.protobuf import duration_pb2

from services.code_runner.errors import InvalidProgramError
from services.runtime.errors import FieldViolation
from services.sandbox.contract import Ending, Program, Run, SandboxDescription

SANDBOX_NAME: Final = "sandbox"
LONGEST_PROGRAM_SECONDS: Final = 600.0

_ENDINGS: Final = {each: code_runner_pb2.Ending.Value(f"ENDING_{each.name}") for each in Ending}


def program_from_proto(request: code_runner_pb2.RunProgramRequest) -> Program:
    """Return what is to be run.

    Raises:
        InvalidProgramError: there is no time to run it in, or too much.
    """
    seconds = request.timeout.seconds + request.timeout.nanos / 1e9
    if not 0 < seconds <= LONGEST_PROGRAM_SECONDS:
        told = f"is {seconds:g} s" if request.HasField("timeout") else "is missing"
        wanted = f"{told}; give more than 0 and at most {LONGEST_PROGRAM_SECONDS:g} s"
        raise InvalidProgramError(FieldViolation("timeout", wanted))
    return Program(request.source, request.tests, seconds)


def run_to_proto(run: Run, sandbox_digest: str) -> code_runner_pb2.RunProgramResponse:
    """Return what became of a program.

    Args:
        run: how it ended.
        sandbox_digest: names what it ran in.
    """
    return code_runner_pb2.RunProgramResponse(
        ending=_ENDINGS[run.ending],
        explanation=run.explanation,
        output=run.output,
        run_time=_duration(run.seconds),
        sandbox_digest=sandbox_digest,
    )


def sandbox_to_proto(description: SandboxDescription) -> code_runner_pb2.Sandbox:
    """Return what programs are run in."""
    limits = description.limits
    return code_runner_pb2.Sandbox(
        name=SANDBOX_NAME,
        boundary=description.boundary,
        python_version=description.python_version,
        programs=description.programs,
        limits=code_runner_pb2.SandboxLimits(
            memory_bytes=limits.memory_bytes,
            files_bytes=limits.files_bytes,
            processes=limits.processes,
            open_files=limits.open_files,
            output_bytes=limits.output_bytes,
        ),
        measures=description.measures,
        digest=description.digest,
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
