"""Sources: files by pattern, headings and formats that differ, values line by line, bundled data, families."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.errors import DataNotFoundError
from services.evaluation.items import InvalidItem, Item, PlainPrompt
from services.evaluation.loading import LoadedTask, load_items, load_task, present_tasks
from services.evaluation.source_specification import Hub

Load = Callable[[Mapping[str, Any], Mapping[str, bytes]], LoadedTask]
Lines = Callable[..., bytes]
ValidItem = Callable[[LoadedTask, int], Item]
WriteTask = Callable[[Mapping[str, Any]], Path]


class FakeHub:
    """A hub of local files that notes what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def list_files(self, hub: Hub) -> list[str]:
        self.asked.append(hub.dataset)
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]

    def download(self, hub: Hub, name: str) -> Path:
        return self.folder / name


def test_files_of_a_pattern_are_read_by_name_and_tell_their_file(
    load: Load, definition: dict[str, Any], lines: Lines, valid_item: ValidItem
) -> None:
    source = {"files": {"test": "sums/*.jsonl"}, "columns": ["question", "answer"], "file_column": "area"}
    files = {f"sums/{name}.jsonl": lines({"question": name, "answer": "1"}) for name in ("b", "a")}
    loaded = load(definition | {"sources": [source], "groups": {"area": "area"}}, files)
    found = [valid_item(loaded, index) for index in range(2)]
    assert [(each.file_name, each.row_number, each.groups["area"]) for each in found] == [
        ("sums/a.jsonl", 1, "a"),
        ("sums/b.jsonl", 1, "b"),
    ]


def test_the_first_source_that_has_data_is_used_and_all_look_alike(
    load: Load, definition: dict[str, Any], lines: Lines, valid_item: ValidItem
) -> None:
    sources = [
        {"files": {"test": "a.jsonl"}, "columns": ["question", "answer"]},
        {
            "files": {"test": "b.csv"},
            "columns": {"raw": "The Question", "answer": "Answer"},
            "fields": {"question": "raw | trim"},
        },
    ]
    content = definition | {"sources": sources, "item_id": "question"}
    from_b = load(content, {"b.csv": b"Answer,The Question\r\n2, 1+1 \r\n"})
    from_a = load(content, {"a.jsonl": lines({"question": "1+1", "answer": "2"})})
    both = load(content, {"a.jsonl": lines({"question": "9", "answer": "9"}), "b.csv": b"Answer,The Question\n2,1\n"})
    assert [valid_item(each, 0).file_name for each in (from_b, from_a, both)] == ["b.csv", "a.jsonl", "a.jsonl"]
    assert tuple(from_a.item_ids()) == tuple(from_b.item_ids())
    assert valid_item(from_a, 0).prompt == valid_item(from_b, 0).prompt


def test_values_line_by_line_belong_to_their_rows(
    load: Load, definition: dict[str, Any], valid_item: ValidItem
) -> None:
    source = {
        "files": {"test": "sums.jsonl"},
        "columns": ["question"],
        "line_files": [{"column": "answer", "file": "answers.lst"}],
    }
    rows = b'{"question": "a"}\n\n{\n{"question": "c"}\n'
    files = {"sums.jsonl": rows, "answers.lst": b"\xef\xbb\xbfone\r\ntwo\r\nthree"}
    loaded = load(definition | {"sources": [source]}, files)
    assert valid_item(loaded, 0).targets == ("one",)
    assert isinstance(loaded.item(1), InvalidItem)
    assert valid_item(loaded, 2).targets == ("three",)


def test_bundled_data_lies_beside_the_definition(
    write_task: WriteTask, definition: dict[str, Any], sums: bytes
) -> None:
    source = {"root": "bundled", "files": {"test": "sums.jsonl"}, "columns": ["question", "answer"]}
    folder = write_task(definition | {"sources": [source]})
    (folder / "suites" / "data").mkdir()
    (folder / "suites" / "data" / "sums.jsonl").write_bytes(sums)
    assert len(list(load_items(Catalog([folder]).task("sums"), DataRoots()))) == 3


@pytest.fixture
def family(write_task: WriteTask, definition: dict[str, Any]) -> Catalog:
    """The family ``sums`` with the variants a, b and c, each with a local and a hub file of its own."""
    columns = ["question", "answer"]
    return Catalog(
        [
            write_task(
                definition
                | {
                    "variants": {"field": "kind", "values": {name: {"word": name * 2} for name in ("a", "b", "c")}},
                    "sources": [
                        {"files": {"test": "{{ kind }}.jsonl"}, "columns": columns},
                        {
                            "hub": {"dataset": "me/sums", "revision": "v1"},
                            "files": {"test": "{{ kind }}/test-*.jsonl"},
                            "columns": columns,
                        },
                    ],
                    "preamble": "{{ word }} {{ kind }}\n",
                }
            )
        ]
    )


def test_missing_variants_of_a_family_are_left_out_and_named(family: Catalog, tmp_path: Path, sums: bytes) -> None:
    (tmp_path / "b.jsonl").write_bytes(sums)
    roots = DataRoots((tmp_path,))
    present, missing = present_tasks(family.suite("sums").tasks, roots)
    assert [task.name for task in present] == ["sums_b"]
    assert [task.name for task in missing] == ["sums_a", "sums_c"]
    first = load_task(present[0], roots).item(0)
    assert isinstance(first, Item)
    assert first.prompt == PlainPrompt("bb b\nQ: 1+1\nA:")
    with pytest.raises(DataNotFoundError, match="task sums_a has no data"):
        present_tasks(family.suite("sums_a").tasks, roots)
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(DataNotFoundError, match="task sums_a has no data"):
        present_tasks(family.suite("sums").tasks, roots)


def test_a_hub_is_asked_only_where_nothing_is_local(family: Catalog, tmp_path: Path, sums: bytes) -> None:
    for name in ("a", "c"):
        (tmp_path / "hub" / name).mkdir(parents=True)
        (tmp_path / "hub" / name / "test-0.jsonl").write_bytes(sums)
    hub = FakeHub(tmp_path / "hub")
    local = tmp_path / "local"
    local.mkdir()
    roots = DataRoots((local,), hub)
    present, missing = present_tasks(family.suite("sums").tasks, roots)
    assert [task.name for task in present] == ["sums_a", "sums_c"]
    assert [task.name for task in missing] == ["sums_b"]
    found = load_task(present[0], roots).item(0)
    assert isinstance(found, Item)
    assert found.file_name == "me/sums/a/test-0.jsonl"
    hub.asked.clear()
    (local / "b.jsonl").write_bytes(sums)
    present, _ = present_tasks(family.suite("sums").tasks, roots)
    assert [task.name for task in present] == ["sums_b"]
    assert hub.asked == []
    assert len(load_task(family.task("sums_c"), roots)) == 3, "asked for by name, the variant comes from the hub"
