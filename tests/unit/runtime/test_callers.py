"""A caller's name is read, checked, and handed on to the services behind."""

from typing import Any

import grpc
import pytest

from services.runtime.callers import ANONYMOUS, CALLER_KEY, current_caller
from services.runtime.calls import bind_ids
from services.runtime.channels import open_channel
from services.runtime.errors import InvalidArgumentError, from_rpc_error
from services.runtime.testing import as_bytes, run_in_process, serve_in_process

UNARY = "/test.v1.TestService/Unary"


async def tell_caller(request: bytes, context: Any) -> bytes:
    return current_caller().encode()


def test_outside_of_calls_the_caller_is_anonymous() -> None:
    assert current_caller() == ANONYMOUS


@pytest.mark.parametrize("name", ["a", "team-x/ci", "user@example.org", "rl-trainer_7", "A" * 64])
async def test_a_valid_name_comes_through_two_services(name: str, make_service: Any) -> None:
    async with run_in_process(make_service(unary=tell_caller)) as inner, open_channel(inner.address) as onward:

        async def relay(request: bytes, context: Any) -> bytes:
            reply: bytes = await onward.unary_unary(UNARY, as_bytes, as_bytes)(b"")
            return reply

        async with serve_in_process(make_service(unary=relay)) as channel:
            call = channel.unary_unary(UNARY, as_bytes, as_bytes)
            assert await call(b"", metadata=((CALLER_KEY, name),)) == name.encode()
            assert await call(b"") == ANONYMOUS.encode()


@pytest.mark.parametrize("name", ["a:b", "two words", "A" * 65, "%00", "a%0Ab", "m%C3%BC"])
async def test_another_name_is_a_typed_error(name: str, make_service: Any) -> None:
    async with serve_in_process(make_service(unary=tell_caller)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"", metadata=((CALLER_KEY, name),))
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidArgumentError)
    assert error.reason == "CALLER_INVALID"


def test_a_process_can_name_itself() -> None:
    with bind_ids(caller="benchmark"), bind_ids(run_id="runs/1"):
        assert current_caller() == "benchmark"
