"""The tests of images run where `make images` has built them."""

import os

import pytest

from deploy.docker.image_contents import IMAGES
from tests.integration.images.containers import can_run_containers, is_of_these_sources, is_there


@pytest.fixture(scope="session", autouse=True)
def images() -> None:
    """Skip where there is nothing to test."""
    if os.geteuid() != 0 or not can_run_containers():
        pytest.skip("needs podman and runc (apt-get install podman runc), and root")
    missing = [each.name for each in IMAGES if not is_there(each.name)]
    if missing:
        pytest.skip(f"needs the images: make images (there is no evalfleet/{', evalfleet/'.join(missing)})")
    stale = [each.name for each in IMAGES if not is_of_these_sources(each.name)]
    if stale:
        pytest.skip(f"the images were built from other sources: make images (evalfleet/{', evalfleet/'.join(stale)})")
