"""What fails a task before anything is spent, and what fails a single item."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.errors import (
    DataNotFoundError,
    DataPathError,
    EmptyDataError,
    MissingColumnError,
    UnreadableDataError,
)
from services.evaluation.items import INVALID_ROW, InvalidItem, Item
from services.evaluation.loading import LoadedTask

Load = Callable[[Mapping[str, Any], Mapping[str, bytes]], LoadedTask]
Lines = Callable[..., bytes]

WITH_TRAIN = {"files": {"test": "sums.jsonl", "train": "train.jsonl"}, "columns": ["question", "answer"]}


class TestWhatFailsTheTask:
    def test_no_file(self, load: Load, definition: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(DataNotFoundError) as caught:
            load(definition, {})
        message = caught.value.message
        assert message.startswith("task sums has no data for its split 'test'. Tried: sums.jsonl in ")
        assert str(tmp_path / "data") in message
        assert "EVALFLEET_DATA_DIR" in message

    def test_a_split_that_no_source_has(self, load: Load, definition: dict[str, Any], sums: bytes) -> None:
        with pytest.raises(DataNotFoundError, match="split 'train' is not listed"):
            load(definition | {"split": "train"}, {"sums.jsonl": sums})

    def test_a_hub_that_is_switched_off(self, load: Load, definition: dict[str, Any]) -> None:
        hub = {"dataset": "a/sums", "revision": "main"}
        source = {"hub": hub, "files": {"test": "x.jsonl"}, "columns": ["question", "answer"]}
        with pytest.raises(DataNotFoundError, match=r"Tried: sums\.jsonl in .*; the hub data set a/sums is needed"):
            load(definition | {"sources": [*definition["sources"], source]}, {})

    @pytest.mark.parametrize("content", [b"", b"\n\n"])
    def test_an_empty_file(self, load: Load, definition: dict[str, Any], content: bytes) -> None:
        with pytest.raises(EmptyDataError, match=r"the data of task sums has no rows: sums\.jsonl"):
            load(definition, {"sums.jsonl": content})

    def test_a_filter_that_keeps_nothing(self, load: Load, definition: dict[str, Any], sums: bytes) -> None:
        with pytest.raises(EmptyDataError, match=r"keeps no row: where: answer == 'x'"):
            load(definition | {"where": "answer == 'x'"}, {"sums.jsonl": sums})

    def test_a_column_that_every_row_lacks(self, load: Load, definition: dict[str, Any], lines: Lines) -> None:
        with pytest.raises(MissingColumnError, match=r"every row of task sums lacks the column 'answer'; .* row 1: "):
            load(definition, {"sums.jsonl": lines({"question": "1+1"}, {"question": "2+2"})})

    def test_a_column_that_the_header_lacks(self, load: Load, definition: dict[str, Any]) -> None:
        source = {"files": {"test": "sums.csv"}, "columns": ["question", "answer"]}
        with pytest.raises(MissingColumnError, match=r"sums\.csv has no column 'answer'; did you mean 'Answer'"):
            load(definition | {"sources": [source]}, {"sums.csv": b"question,Answer\n1,2\n"})

    def test_rows_of_which_none_can_be_read(self, load: Load, definition: dict[str, Any]) -> None:
        with pytest.raises(UnreadableDataError, match=r"no row of task sums can be used; the first: sums\.jsonl row 1"):
            load(definition, {"sums.jsonl": b"these are\nnot JSON\n"})

    def test_a_path_that_leaves_its_folder(self, load: Load, definition: dict[str, Any], sums: bytes) -> None:
        source = {"files": {"test": "../sums.jsonl"}, "columns": ["question", "answer"]}
        with pytest.raises(DataPathError):
            load(definition | {"sources": [source]}, {"sums.jsonl": sums})

    @pytest.mark.parametrize("labels", [b"2\n4\n", b"2\n4\n6\n8\n"])
    def test_values_line_by_line_of_another_length(
        self, load: Load, definition: dict[str, Any], sums: bytes, labels: bytes
    ) -> None:
        answers = [{"column": "answer", "file": "answers.lst"}]
        source = {"files": {"test": "sums.jsonl"}, "columns": ["question"], "line_files": answers}
        with pytest.raises(UnreadableDataError, match="rows than there are lines for 'answer'"):
            load(definition | {"sources": [source]}, {"sums.jsonl": sums, "answers.lst": labels})

    def test_examples_that_are_missing_or_broken(
        self, load: Load, definition: dict[str, Any], sums: bytes, lines: Lines
    ) -> None:
        content = definition | {"sources": [WITH_TRAIN], "few_shot": {"count": 2, "split": "train"}}
        with pytest.raises(EmptyDataError, match="needs 2 few-shot examples; there are 1"):
            load(content, {"sums.jsonl": sums, "train.jsonl": lines({"question": "a", "answer": "b"})})
        with pytest.raises(UnreadableDataError, match=r"example of task sums cannot be used: train\.jsonl row 1"):
            load(content, {"sums.jsonl": sums, "train.jsonl": b"{\n"})
        rows = lines({"question": "a", "answer": "b"}, {"question": "a", "answer": ""})
        with pytest.raises(UnreadableDataError, match=r"example of task sums cannot be used: train\.jsonl row 2"):
            load(content, {"sums.jsonl": sums, "train.jsonl": rows})
        with pytest.raises(DataNotFoundError, match=r"train\.jsonl"):
            load(content, {"sums.jsonl": sums})


class TestWhatFailsOneItem:
    def bad(self, loaded: LoadedTask) -> dict[int, str]:
        found = [each for each in loaded.items() if isinstance(each, InvalidItem)]
        assert all(each.reason == INVALID_ROW and each.task == loaded.task.name for each in found)
        return {each.row_number: each.message for each in found}

    def test_rows_that_lack_a_column_or_cannot_be_parsed(
        self, load: Load, definition: dict[str, Any], lines: Lines
    ) -> None:
        content = lines({"question": "1+1", "answer": "2"}, {"question": "2+2"}) + b"{\n" + lines({"answer": 1})
        loaded = load(definition, {"sums.jsonl": content})
        assert len(loaded) == 4
        bad = self.bad(loaded)
        assert bad[2] == "sums.jsonl row 2: the row lacks the column 'answer'; it has: question"
        assert bad[3].startswith("sums.jsonl row 3: the line is no valid JSON")
        assert bad[4] == "sums.jsonl row 4: the row lacks the column 'question'; it has: answer"
        assert isinstance(loaded.item(0), Item)

    def test_rows_on_which_a_template_fails(self, load: Load, definition: dict[str, Any], lines: Lines) -> None:
        content = definition | {
            "fields": {"sum": "question.split('+')[1]"},
            "groups": {"kind": "answer[0]"},
            "where": "answer.isalnum()",
        }
        rows = lines(
            {"question": "1+1", "answer": "2"},
            {"question": "11", "answer": "2"},
            {"question": ["+", "+"], "answer": "2"},
            {"question": "1+1", "answer": 2},
            {"question": "1+1", "answer": "-"},
            {"question": "1+\ud83d", "answer": "2"},
        )
        loaded = load(content, {"sums.jsonl": rows})
        assert len(loaded) == 5, "row 5 is filtered out, not failed"
        bad = self.bad(loaded)
        assert set(bad) == {2, 3, 4, 6}
        assert "the column 'sum' cannot be computed" in bad[2]
        assert "no attribute 'split'" in bad[3]
        assert "`where` fails" in bad[4]
        assert "no valid Unicode" in bad[6]

    @pytest.mark.parametrize(
        ("field", "good", "wrong", "says"),
        [
            ("gold", "0", "9", "`gold` is 9, which is no index of the 2 choices"),
            ("gold", "0", "-1", "`gold` is -1"),
            ("gold", "0", "true", "`gold` is True"),
            ("gold", "0", "[]", "`gold` is []"),
            ("gold", "[0]", "[0, 2]", "`gold` is [0, 2]"),
            ("gold", "0", "'0'", "`gold` is '0'"),
            ("choices", "['a', 'b']", "['a']", "`choices` must give at least two"),
            ("choices", "['a', 'b']", "['a', '']", "`choices` must give at least two"),
            ("choices", "['a', 'b']", "'ab'", "`choices` must give at least two"),
            ("choices", "['a', 'b']", "[1, 2]", "`choices` must give at least two"),
            ("cluster", "1", "[1]", "'cluster' must be text or a whole number"),
            ("cluster", "'a'", "none", "'cluster' must be text or a whole number"),
        ],
    )
    def test_expressions_that_give_the_wrong_thing(
        self,
        load: Load,
        choice_definition: dict[str, Any],
        lines: Lines,
        field: str,
        good: str,
        wrong: str,
        says: str,
    ) -> None:
        content = choice_definition | {field: f"({wrong}) if question == 'wrong' else ({good})"}
        rows = lines({"question": "good", "answer": "0"}, {"question": "wrong", "answer": "0"})
        bad = self.bad(load(content, {"sums.jsonl": rows}))
        assert set(bad) == {2}
        assert says in bad[2]

    def test_an_empty_continuation(self, load: Load, choice_definition: dict[str, Any], lines: Lines) -> None:
        content = choice_definition | {"continuation": "{{ question }}"}
        rows = lines({"question": "x", "answer": "0"}, {"question": "", "answer": "0"})
        assert self.bad(load(content, {"sums.jsonl": rows})) == {2: "sums.jsonl row 2: `continuation` is empty"}

    @pytest.mark.parametrize("targets", ["[]", "''", "none", "{'a': 1}", "[['a']]"])
    def test_targets_that_make_no_sense(
        self, load: Load, definition: dict[str, Any], sums: bytes, targets: str
    ) -> None:
        bad = self.bad(load(definition | {"targets": targets}, {"sums.jsonl": sums}))
        assert len(bad) == 3
        assert all("`targets` must give text" in message for message in bad.values())

    def test_an_id_that_cannot_be_computed(self, load: Load, definition: dict[str, Any], lines: Lines) -> None:
        rows = lines({"question": {"id": 5}, "answer": "x"}, {"question": {}, "answer": "x"})
        loaded = load(definition | {"item_id": "question.id"}, {"sums.jsonl": rows})
        assert next(iter(loaded.item_ids())) == "5"
        assert "`item_id` fails" in self.bad(loaded)[2]
