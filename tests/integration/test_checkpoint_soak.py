"""A short soak: what a training loop does all day leaves memory and disk where they were."""

from pathlib import Path

import pytest

from benchmarks.checkpoint_soak import figures_of, soak, what_grew

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_checkpoints_come_and_go_without_a_trace(tiny_checkpoint: Path) -> None:
    levels = soak(tiny_checkpoint, 24)
    figures = figures_of(levels)
    print("\n".join([*what_grew(levels), *(f"{name} {value:.3f}" for name, value in figures.items())]))
    assert figures["triton_ratio"] < 1.05
    assert figures["service_ratio"] < 1.05
    assert 0.9 < figures["disk_ratio"] < 1.1, what_grew(levels)
    assert figures["log_mib_most"] < 1.5 * figures["log_mib_bound"]
    assert figures["register_seconds_median"] < 2.0
    # Twenty rows with their prompts and answers, and no more.
    assert figures["ledger_bytes_per_run"] < 40_000
