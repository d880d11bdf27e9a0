"""What the commands of one call share: where the fleet is, and the consoles they write to."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType

from rich.console import Console

from evalfleet.fleet import Fleet

_PLAIN_WIDTH_COLUMNS = 200


def make_console(*, stderr: bool = False) -> Console:
    """Make a console; when its output is no terminal it writes plain text, wide enough not to cut tables."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH_COLUMNS)


class Session(AbstractContextManager["Session"]):
    """The fleet that the global options name, connected to when a command first asks for it.

    Attributes:
        state_dir: state folder of the fleet on this machine.
        targets: addresses given on the command line, by service.
    """

    def __init__(self, *, state_dir: Path, targets: Mapping[str, str]) -> None:
        self.state_dir = state_dir
        self.targets = targets
        self._resources = ExitStack()

    @cached_property
    def fleet(self) -> Fleet:
        """The fleet."""
        return self._resources.enter_context(Fleet.connect(self.targets, state_dir=self.state_dir))

    @cached_property
    def out(self) -> Console:
        """Console for results, on standard output."""
        return make_console()

    @cached_property
    def err(self) -> Console:
        """Console for remarks when standard output carries JSON."""
        return make_console(stderr=True)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.close()
