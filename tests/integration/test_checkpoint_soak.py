"""A short soak: what a training loop does all day leaves memory and disk where they were."""

from pathlib import Path

import pytest

from benchmarks.checkpoint_soak import figures_of, soak

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_checkpoints_come_and_go_without_a_trace(tiny_checkpoint: Path) -> None:
    figures = figures_of(soak(tiny_checkpoint, 14))
    assert figures["triton_ratio"] < 1.05
    assert figures["service_ratio"] < 1.05
    assert figures["register_seconds_median"] < 2.0
