"""The command line that starts a place for a program inside a container of gVisor's."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.sandbox.gvisor import stage
from services.sandbox.runtime_root import RuntimeRoot

_SERVICE_THREADS: Final = 256


@dataclass(frozen=True, slots=True)
class GvisorCommand:
    """Builds the command line of each place.

    Attributes:
        root: what is seen inside.
    """

    root: RuntimeRoot

    @property
    def remedy(self) -> str:
        """What to do where it does not start."""
        return "use a version of gVisor in which unprivileged processes may make user, process and network namespaces"

    @property
    def others_of_user(self) -> int:
        """The service's own threads, which gVisor's kernel counts too where it counts: it has one count for a user."""
        return _SERVICE_THREADS

    def arguments(self, groups: Sequence[Path], filter_fd: int, jobs_fd: int, reports_fd: int) -> list[str]:
        """Return the command: this process's Python, which becomes the program's inside. No groups are joined."""
        descriptors = (str(filter_fd), str(jobs_fd), str(reports_fd))
        variables = (f"{name}={value}" for name, value in self.root.environment.items())
        program = self.root.command(jobs_fd, reports_fd)
        script = str(stage.__file__)
        return [
            sys.executable,
            "-I",
            "-S",
            "-B",
            script,
            str(self.root.folder),
            *descriptors,
            *variables,
            "--",
            *program,
        ]
