"""A sandbox that runs nothing: it says of each program what it was told to."""

from collections.abc import Callable

from services.scoring.sandbox.contract import Ending, Program, Run


class FakeSandbox:
    """Remembers its programs.

    Args:
        decide: says how a program ends.
    """

    def __init__(self, decide: Callable[[Program], Ending]) -> None:
        self.programs: list[Program] = []
        self._decide = decide

    async def run(self, program: Program) -> Run:
        self.programs.append(program)
        return Run(self._decide(program), "", "", 0.0)

    async def close(self) -> None:
        """Nothing is open."""
