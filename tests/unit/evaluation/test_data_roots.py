"""Data files are found below their folders and nowhere else."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.evaluation.data_roots import DataRoots, check_relative
from services.evaluation.errors import DataNotFoundError, DataPathError
from services.evaluation.source_specification import Hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    (inside / "set").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "set/c.jsonl"):
        (inside / name).write_text("{}\n")
    (tmp_path / "secret.jsonl").write_text("{}\n")
    return inside


def test_a_path_is_found_and_named_below_its_folder(folder: Path) -> None:
    (found,) = DataRoots().find("set/c.jsonl", [folder])
    assert (found.name, found.path) == ("set/c.jsonl", folder / "set" / "c.jsonl")


def test_a_pattern_gives_files_by_name_and_skips_folders(folder: Path) -> None:
    assert [each.name for each in DataRoots().find("*", [folder])] == ["a.jsonl", "b.jsonl"]
    assert [each.name for each in DataRoots().find("**/*.jsonl", [folder])] == ["a.jsonl", "b.jsonl", "set/c.jsonl"]


def test_the_first_folder_that_has_the_file_wins(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jsonl").write_text("")
    (found,) = DataRoots().find("a.jsonl", [tmp_path / "none", other, folder])
    assert found.path == other / "a.jsonl"
    assert DataRoots().find("nothing.jsonl", [other, folder]) == ()


@pytest.mark.parametrize(
    "pattern",
    [
        "../secret.jsonl",
        "set/../../secret.jsonl",
        "/etc/passwd",
        "..",
        "",
        ".",
        "a\\..\\b",
        "a\0b",
        "**/../../*",
        "../*.jsonl",
    ],
)
def test_no_path_leaves_its_folder(folder: Path, pattern: str) -> None:
    with pytest.raises(DataPathError, match="must be relative"):
        DataRoots().find(pattern, [folder])


def test_a_link_that_leads_out_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (folder / "out").symlink_to(tmp_path)
    for pattern in ("link.jsonl", "lin*.jsonl", "out/secret.jsonl", "out/*.jsonl"):
        with pytest.raises(DataPathError, match="leads out of its folder"):
            DataRoots().find(pattern, [folder])


def test_a_link_that_stays_inside_is_followed(folder: Path) -> None:
    (folder / "link.jsonl").symlink_to(folder / "a.jsonl")
    (found,) = DataRoots().find("link.jsonl", [folder])
    assert (found.name, found.path) == ("link.jsonl", folder / "a.jsonl")


def test_a_data_folder_may_itself_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(folder)
    (found,) = DataRoots().find("a.jsonl", [tmp_path / "data"])
    assert found.path == folder / "a.jsonl"


@settings(deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "a", "", "/", "~", "*"]), max_size=6).map("/".join))
def test_whatever_passes_the_check_stays_below_any_folder(pattern: str) -> None:
    try:
        check_relative(pattern)
    except DataPathError:
        return
    root = Path("/some/root")
    assert (root / pattern).is_relative_to(root)
    assert ".." not in Path(pattern).parts


def test_a_hub_that_is_switched_off_is_an_error_that_says_so() -> None:
    with pytest.raises(DataNotFoundError, match="switched off"):
        DataRoots().find_on_hub(Hub(dataset="a/b", revision="main"), "x.jsonl")
