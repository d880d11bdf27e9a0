"""What our Python models do with the module that Triton's stub gives them."""

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from services.inference.engines import seams
from services.inference.engines.shared_metrics import SharedMetrics
from tests.fakes.python_backend import MetricFamily, TritonModelException, fake_python_backend

_MODELS = ("services.inference.triton_models.hosting", "services.inference.triton_models.decoupled")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = fake_python_backend()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    yield module
    for name in _MODELS:
        sys.modules.pop(name, None)


@pytest.fixture
def stub_metrics(backend: Any) -> Any:
    return importlib.import_module(_MODELS[0]).StubMetrics("m")


def published(name: str) -> float:
    return MetricFamily.made[name].value


def test_counters_rise_and_gauges_follow(stub_metrics: Any) -> None:
    stub_metrics.publish({seams.GENERATED_TOKENS: 3, seams.RUNNING_SEQUENCES: 2})
    stub_metrics.publish({seams.GENERATED_TOKENS: 5, seams.RUNNING_SEQUENCES: 0})
    assert (published(seams.GENERATED_TOKENS), published(seams.RUNNING_SEQUENCES)) == (5, 0)


def test_a_counter_that_falls_is_never_lowered_and_counts_on(stub_metrics: Any) -> None:
    for total in (100.0, 100.0 - 1e-12, 101.0, 4.0, 6.0):
        stub_metrics.publish({seams.BUSY_SECONDS: total})
    # The last bit is rounding; 4 is an engine that began anew.
    assert published(seams.BUSY_SECONDS) == pytest.approx(103.0)


def test_the_order_in_which_engines_leave_lowers_no_sum(stub_metrics: Any) -> None:
    shared = SharedMetrics(stub_metrics)
    for turn in range(200):
        for name in "abc":
            shared.of_engine(name).publish({seams.BUSY_SECONDS: 0.1 * turn + 0.7 / (ord(name) - 90)})
        before = published(seams.BUSY_SECONDS)
        shared.forget("b")
        shared.forget("a")
        assert published(seams.BUSY_SECONDS) == pytest.approx(before)
        shared.forget("c")


def test_a_responder_that_cannot_ask_takes_the_caller_for_present(backend: Any) -> None:
    class Broken:
        def is_cancelled(self) -> bool:
            raise TritonModelException("the response sender is gone")

    responder = importlib.import_module(_MODELS[1]).StubResponder(Broken())
    assert responder.is_cancelled() is False
