"""A sandbox that runs nothing: it says of each program what it was told to."""

from collections.abc import Callable

from services.sandbox.contract import Ending, Program, Run, SandboxDescription, SandboxLimits
from services.sandbox.errors import SandboxUnavailableError

DESCRIPTION = SandboxDescription("fake", "3.11.0", SandboxLimits(processes=7), ("runs nothing", "ääh"), programs=3)


class FakeSandbox:
    """Remembers its programs.

    Args:
        decide: says how a program ends, or raises.

    Attributes:
        description: of what it says that it is.
        digests: of the sandboxes that ran programs, one a run; then its own.
    """

    def __init__(self, decide: Callable[[Program], Ending]) -> None:
        self.programs: list[Program] = []
        self.description = DESCRIPTION
        self.digests: list[str] = []
        self.is_available = True
        self._decide = decide

    async def describe(self) -> SandboxDescription:
        if not self.is_available:
            raise SandboxUnavailableError("nothing is contained here")
        return self.description

    async def run(self, program: Program) -> Run:
        await self.describe()
        self.programs.append(program)
        return Run(self._decide(program), "", "", 0.0, self.digests.pop(0) if self.digests else "")

    async def close(self) -> None:
        """Nothing is open."""
