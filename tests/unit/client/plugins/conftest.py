from collections.abc import Iterator

import pytest

from tests.fakes.generation_service import GenerationServer


@pytest.fixture
def generation() -> Iterator[GenerationServer]:
    with GenerationServer() as running:
        yield running
