"""What a program leaves is removed, however it lies there."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sandbox.gvisor.leftovers import remove_leftovers


def test_everything_goes_and_the_folder_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    folder = tmp_path / "tmp"
    (folder / "closed/inner").mkdir(parents=True)
    (folder / "closed/inner/file").touch()
    (folder / "closed/inner").chmod(0)
    (folder / "closed").chmod(0)
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(outside)
    (folder / "broken").symlink_to("nowhere")
    (folder / "left-0").mkdir()
    (folder / "left-1").symlink_to("nowhere")
    (folder / "hidden").mkdir()
    (folder / "hidden/.name\nof\tits own").touch()
    remove_leftovers(folder)
    assert list(folder.iterdir()) == []
    assert (outside / "kept").read_text() == "kept"


def test_no_depth_is_too_deep(tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    here = os.getcwd()
    try:
        os.chdir(folder)
        # Paths of this length cannot be named any more.
        for _ in range(100):
            os.mkdir("deeper" * 10)
            os.chdir("deeper" * 10)
    finally:
        os.chdir(here)
    remove_leftovers(folder)
    assert list(folder.iterdir()) == []


@given(paths=st.lists(st.lists(st.sampled_from(["a", "b", "left-0", "left-1", "left-2"]), min_size=1, max_size=5)))
@settings(deadline=None, max_examples=30)
def test_any_tree_goes(tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]) -> None:
    folder = tmp_path_factory.mktemp("tmp")
    for parts in paths:
        (folder.joinpath(*parts)).mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    assert list(folder.iterdir()) == []


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        remove_leftovers(tmp_path / "nowhere")
