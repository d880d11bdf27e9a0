"""What comes of a program that cannot be removed."""

from pathlib import Path
from typing import Any

import pytest

from services.sandbox.contract import SandboxLimits
from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.gvisor import sandbox


class Unremovable:
    """A program's process whose end goes wrong."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def end(self) -> None:
        raise self._error


@pytest.mark.parametrize("error", [OSError("busy"), RuntimeError("the loop is closed"), ValueError("no number")])
async def test_whatever_goes_wrong_spoils_the_place_once_and_is_not_everybodys(error: Exception) -> None:
    unused: Any = None
    container = sandbox._Container(unused, unused, unused, frozenset())
    process: Any = Unremovable(error)
    told: list[Exception] = []
    container.begin_clearing(process, told.append)
    for _ in range(2):
        await container.cleared()
    assert told == [error]


async def test_a_spoiled_place_tells_everybody_alike(tmp_path: Path) -> None:
    spoiled: list[bool] = []
    limits = SandboxLimits()
    place = sandbox.GvisorSandbox(limits, tmp_path, on_spoiled=lambda: spoiled.append(True))
    place._spoil(RuntimeError("left"))
    place._spoil(OSError("again"))
    depths = []
    for _ in range(3):
        with pytest.raises(SandboxUnavailableError, match="any more: left") as caught:
            await place.describe()
        depths.append(len(caught.traceback))
    assert (spoiled, len(set(depths))) == ([True], 1)
