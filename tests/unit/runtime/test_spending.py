"""What is computed is booked once, whatever becomes of the request."""

import asyncio

import pytest

from services.runtime.errors import DeadlineExceededError, NotFoundError, UnavailableError
from services.runtime.spending import Asked, least_tokens, open_account, spend
from services.runtime.usage import NO_USAGE, Usage, with_usage

LEAST = Usage(prompt_tokens=20, computed_prompt_tokens=20)
TOLD = Usage(prompt_tokens=30, computed_prompt_tokens=30, computed_completion_tokens=4)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncio.CancelledError(), LEAST),
        (GeneratorExit(), LEAST),
        (TimeoutError(), LEAST),
        (DeadlineExceededError("late"), LEAST),
        (with_usage(DeadlineExceededError("late"), TOLD), TOLD),
        (NotFoundError("no such model"), NO_USAGE),
        (with_usage(UnavailableError("gone"), TOLD), TOLD),
    ],
)
async def test_who_gets_no_answer_pays_the_least_or_what_the_error_says(error: BaseException, expected: Usage) -> None:
    booked: list[Usage] = []
    open_account(booked.append)
    with pytest.raises(type(error)), Asked(LEAST):
        raise error
    assert sum(booked, NO_USAGE) == expected


async def test_who_gets_an_answer_pays_what_it_says() -> None:
    booked: list[Usage] = []
    open_account(booked.append)
    with Asked(LEAST) as asked:
        asked.cost(TOLD)
    assert booked == [TOLD]


async def test_tasks_that_outlive_their_call_pay_for_it() -> None:
    booked: list[Usage] = []

    async def call() -> "asyncio.Task[None]":
        open_account(booked.append)
        return asyncio.create_task(work())

    async def work() -> None:
        spend(TOLD)

    await (await asyncio.create_task(call()))
    spend(LEAST)
    assert booked == [TOLD]


def test_estimates_are_low() -> None:
    assert least_tokens(len("The quick brown fox jumps over the lazy dog.")) == 7
