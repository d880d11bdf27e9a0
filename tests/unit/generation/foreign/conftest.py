from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.tokenizer_folder import write_tokenizer

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer that puts a BOS first, as Llama's does."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
