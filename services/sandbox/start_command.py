"""How sandboxes of one kind are started."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class StartCommand(Protocol):
    """How sandboxes of one kind are started."""

    @property
    def remedy(self) -> str:
        """What to do where one does not start; goes on after «To make it work,»."""
        ...

    @property
    def others_of_user(self) -> int:
        """How many processes and threads the kernel may count for a program's user that are none of the program's."""
        ...

    def arguments(self, groups: Sequence[Path], filter_fd: int, jobs_fd: int, reports_fd: int) -> list[str]:
        """Return the command that becomes the runner inside.

        Args:
            groups: control groups that it joins.
            filter_fd: of the compiled filter of system calls.
            jobs_fd: the runner's end of the pipe from which it reads.
            reports_fd: the runner's end of the pipe to which it writes.
        """
        ...
