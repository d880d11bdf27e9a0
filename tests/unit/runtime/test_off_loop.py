"""Long work leaves the event loop to others, short work is done at once."""

import threading

import pytest

from services.runtime.off_loop import LONG_CHARACTERS, off_loop


@pytest.mark.parametrize(("characters", "is_here"), [(0, True), (LONG_CHARACTERS - 1, True), (LONG_CHARACTERS, False)])
async def test_only_what_is_long_has_a_thread(characters: int, is_here: bool) -> None:
    worked_in = await off_loop(threading.current_thread, characters=characters)
    assert (worked_in is threading.current_thread()) is is_here


async def test_what_goes_wrong_in_a_thread_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await off_loop(lambda: 1 / 0, characters=LONG_CHARACTERS)
