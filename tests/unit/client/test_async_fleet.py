"""Whoever knows one client knows the other: the same services, methods and arguments."""

import inspect
import typing
from collections.abc import Callable
from typing import Any

import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.fleet import Fleet

from tests.fakes.fleet import FakeFleet

SERVICES = ["models", "generation", "suites", "runs", "rankings", "comparisons", "ledger", "safety", "scoring"]


def methods(of: type) -> dict[str, Callable[..., Any]]:
    return {name: each for name, each in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_")}


def parameters(method: Callable[..., Any]) -> dict[str, object]:
    """Return the default of each parameter by name; those of a TypedDict are written out, as ``None``."""
    found: dict[str, object] = {}
    for name, each in inspect.signature(method).parameters.items():
        if each.kind is inspect.Parameter.VAR_KEYWORD:
            [options] = typing.get_args(typing.get_type_hints(method)[name])
            found |= dict.fromkeys(options.__required_keys__ | options.__optional_keys__)
        else:
            found[name] = each.default
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_both_fleets_have_the_same_methods_with_the_same_arguments(fake: FakeFleet, service: str) -> None:
    with Fleet.connect(fake.targets) as fleet:
        blocking = type(getattr(fleet, service))
    awaited = type(getattr(AsyncFleet.connect(fake.targets), service))
    assert methods(blocking).keys() == methods(awaited).keys()
    for name, method in methods(blocking).items():
        other = methods(awaited)[name]
        assert parameters(method).keys() == parameters(other).keys(), name
        is_generator = inspect.isasyncgenfunction(other) or name == "results"
        assert inspect.iscoroutinefunction(other) or is_generator, name
