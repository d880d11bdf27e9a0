import pytest
import torch

from services.inference.engines.device_clock import finished_at


@pytest.mark.parametrize(("device", "is_waited_for"), [("cpu", False), ("cuda:1", True)])
def test_a_gpu_is_waited_for_before_the_clock_is_read(
    monkeypatch: pytest.MonkeyPatch, device: str, is_waited_for: bool
) -> None:
    events: list[object] = []

    def clock() -> float:
        events.append("clock")
        return 7.0

    monkeypatch.setattr(torch.cuda, "synchronize", events.append)
    monkeypatch.setattr("time.perf_counter", clock)
    assert finished_at(torch.device(device)) == 7.0
    assert events == ([torch.device(device)] if is_waited_for else []) + ["clock"]
