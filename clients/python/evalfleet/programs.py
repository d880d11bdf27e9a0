"""Programs that nobody has read, run where they can do no harm."""

from evalfleet import program_messages as messages
from evalfleet.code_runner.v1 import code_runner_pb2_grpc
from evalfleet.connections import Connection
from evalfleet.program_results import Ending, ProgramRun, Sandbox

__all__ = ["Ending", "ProgramRun", "Programs", "Sandbox"]


class Programs:
    """The code runner, which only its operators reach: the scoring service asks it for everybody else.

    Where it is, ``EVALFLEET_CODE_RUNNER_TARGET`` says.
    """

    def __init__(self, code_runner: Connection) -> None:
        self._connection = code_runner

    @property
    def _stub(self) -> code_runner_pb2_grpc.CodeRunnerServiceStub:
        return self._connection.stub(code_runner_pb2_grpc.CodeRunnerServiceStub)

    def run(
        self, source: str, tests: str = "", *, timeout_seconds: float = messages.PROGRAM_TIMEOUT_SECONDS
    ) -> ProgramRun:
        """Run a program, and its tests after it, to its end, its failure or its limit; each of these is an answer.

        Args:
            source: Python; runs as a module of its own.
            tests: Python; runs in the same namespace, and says by an exception that the program is wrong.
            timeout_seconds: of both together, from the moment they run; up to 600. They may wait for a minute before.

        Raises:
            FailedPreconditionError: SANDBOX_UNAVAILABLE: programs cannot be contained there, so none is run.
            ResourceExhaustedError: too many are in hand, or other processes kept it from running.
        """
        request = messages.run_request(source, tests, timeout_seconds)
        answer = self._connection.call(
            self._stub.RunProgram, request, timeout_seconds=timeout_seconds + messages.WAIT_SECONDS
        )
        return messages.program_run(answer)

    def sandbox(self) -> Sandbox:
        """Read what programs are run in."""
        answer = self._connection.call(self._stub.GetSandbox, messages.sandbox_request(), may_be_hedged=True)
        return messages.sandbox(answer.sandbox)
