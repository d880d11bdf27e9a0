"""How many programs run at once in a container that may not use all cores."""

import sys
from pathlib import Path

import pytest

from services.sandbox.choosing import quota_cores


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", sys.maxsize)]
)
def test_a_quota_of_version_2(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert quota_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("300000", 3), ("-1", sys.maxsize), ("", sys.maxsize)])
def test_a_quota_of_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert quota_cores(tmp_path) == cores


def test_no_groups_are_no_quota(tmp_path: Path) -> None:
    assert quota_cores(tmp_path) == sys.maxsize
