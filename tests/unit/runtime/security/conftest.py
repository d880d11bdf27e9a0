"""An authority of the test's own, and what it signed for a server."""

from pathlib import Path

import pytest

from tests.authority import Authority, Leaf

LOCAL = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "fleet")


@pytest.fixture
def server_leaf(authority: Authority) -> Leaf:
    return authority.sign("server", LOCAL)


@pytest.fixture
def client_leaf(authority: Authority) -> Leaf:
    return authority.sign("client", "evaluation.evalfleet.svc")
