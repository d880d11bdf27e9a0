"""Every format with its traps: rows keep their numbers, one bad row costs one row, a bad file is one typed error."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.evaluation.data_roots import DataFile
from services.evaluation.errors import MissingColumnError, UnreadableDataError
from services.evaluation.readers import BadRow, RawRow, raw_rows, read_file
from services.evaluation.source_specification import Source

Read = Callable[..., list[RawRow | BadRow]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a file and read it back with a source of the given settings."""

    def read_back(name: str, content: bytes, columns: Any = None, **settings: Any) -> list[RawRow | BadRow]:
        path = tmp_path / name
        path.write_bytes(content)
        source = Source.model_validate({"files": {"test": name}, "columns": columns or ["q"], **settings})
        return list(read_file(DataFile(path, name), source))

    return read_back


def values(rows: list[RawRow | BadRow]) -> list[dict[str, Any]]:
    assert all(isinstance(row, RawRow) for row in rows), rows
    return [dict(row.values) for row in rows if isinstance(row, RawRow)]


class TestJsonLines:
    def test_lines_are_split_at_line_feeds_only(self, read: Read) -> None:
        content = '{"q": "a\u0085b\u2028c"}\r\n\n{"q": "d"}'.encode()
        assert read("a.jsonl", content) == [RawRow(1, {"q": "a\u0085b\u2028c"}), RawRow(3, {"q": "d"})]

    def test_a_byte_order_mark_is_dropped(self, read: Read) -> None:
        assert values(read("a.jsonl", b'\xef\xbb\xbf{"q": 1}\n')) == [{"q": 1}]

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            (b'{"q": ', "no valid JSON"),
            (b'["q"]', "holds list, not a JSON object"),
            (b'"q"', "holds str, not a JSON object"),
            (b'{"q": "\xff"}', "not UTF-8 (byte 7)"),
            (b'{"q": NaN}', "NaN is no JSON value"),
            (b'{"q": -Infinity}', "-Infinity is no JSON value"),
            (b'{"q": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no valid JSON"),
            (b'{"q": ' + b"9" * 5000 + b"}", "no valid JSON"),
        ],
    )
    def test_one_bad_line_costs_one_row(self, read: Read, line: bytes, says: str) -> None:
        first, bad, last = read("a.jsonl", b'{"q": 1}\n' + line + b'\n{"q": 2}\n')
        assert (first, last) == (RawRow(1, {"q": 1}), RawRow(3, {"q": 2}))
        assert isinstance(bad, BadRow)
        assert bad.number == 2
        assert says in bad.problem

    def test_a_line_that_never_ends_is_one_bad_row(self, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(raw_rows, "MAX_ROW_BYTES", 40)
        bad, good = read("a.jsonl", b'{"q": "' + b"x" * 200 + b'"}\n{"q": 1}\n')
        assert isinstance(bad, BadRow)
        assert good == RawRow(2, {"q": 1})

    def test_gzip_is_unpacked(self, read: Read) -> None:
        assert values(read("a.jsonl.gz", gzip.compress(b'{"q": 1}\n{"q": 2}\n'))) == [{"q": 1}, {"q": 2}]

    @pytest.mark.parametrize(
        "content", [b"no gzip", gzip.compress(b'{"q": 1}\n' * 999)[:-9], gzip.compress(b"{}")[:12]]
    )
    def test_a_broken_archive_is_one_error(self, read: Read, content: bytes) -> None:
        with pytest.raises(UnreadableDataError, match=r"a\.jsonl\.gz cannot be read"):
            read("a.jsonl.gz", content)

    @settings(deadline=None)
    @given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.lists(st.text()))))
    def test_any_objects_come_back(self, tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
        path = tmp_path_factory.mktemp("rows") / "a.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = Source.model_validate({"files": {"test": "a.jsonl"}, "columns": ["q"]})
        assert values(list(read_file(DataFile(path, "a.jsonl"), source))) == rows

    def test_rows_are_read_as_they_are_asked_for(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"q": 1}\n' + b"\xff" * 1000)
        rows = read_file(
            DataFile(path, "a.jsonl"), Source.model_validate({"files": {"t": "a.jsonl"}, "columns": ["q"]})
        )
        assert next(rows) == RawRow(1, {"q": 1})


class TestJsonDocument:
    def test_rows_are_found_inside_the_document(self, read: Read) -> None:
        content = json.dumps({"canary": "x", "data": {"examples": [{"q": 1}, 7, {"q": 2}]}}).encode()
        rows = read("a.json", content, records="data.examples")
        assert rows == [RawRow(1, {"q": 1}), BadRow(2, "the row is int, not a JSON object"), RawRow(3, {"q": 2})]

    def test_a_list_at_the_top_needs_no_path(self, read: Read) -> None:
        assert values(read("a.json", b'[{"q": 1}]')) == [{"q": 1}]

    @pytest.mark.parametrize(
        ("content", "records", "says"),
        [
            (b"{", "", "no valid JSON"),
            (b"", "", "no valid JSON"),
            (b"\xff\xfe", "", "no valid JSON"),
            (b'{"a": []}', "examples", "has no 'examples'"),
            (b'{"a": {}}', "a.b", "has no 'a.b'"),
            (b'{"a": 1}', "a", "'a' is no list of rows"),
            (b'{"a": []}', "", "the document is no list of rows"),
        ],
    )
    def test_a_document_without_rows_is_one_error(self, read: Read, content: bytes, records: str, says: str) -> None:
        with pytest.raises(UnreadableDataError, match=says):
            read("a.json", content, records=records)


class TestDelimited:
    def test_quotes_commas_line_breaks_and_next_line_characters(self, read: Read) -> None:
        content = '\ufeffq,a\r\n"line one\nline ""two"", three",x\u0085y\r\n\r\nlast,z'.encode()
        assert values(read("a.csv", content, ["q", "a"])) == [
            {"q": 'line one\nline "two", three', "a": "x\u0085y"},
            {"q": "last", "a": "z"},
        ]

    def test_a_file_without_header_takes_its_columns_in_order(self, read: Read) -> None:
        assert read("a.csv", b"1,2\n3,4\n", ["q", "a"], header=False) == [
            RawRow(1, {"q": "1", "a": "2"}),
            RawRow(2, {"q": "3", "a": "4"}),
        ]

    def test_tsv_without_quoting_takes_quotes_as_they_are(self, read: Read) -> None:
        assert values(read("a.tsv", b'"Hi" he said\t18\n', ["q", "a"], header=False, quoting=False)) == [
            {"q": '"Hi" he said', "a": "18"}
        ]

    def test_columns_may_have_headings_that_are_no_names(self, read: Read) -> None:
        rows = read("a.csv", b",Best Answer\n0,x\n", {"best": "Best Answer"})
        assert values(rows) == [{"": "0", "Best Answer": "x"}]

    def test_a_row_of_another_width_costs_one_row(self, read: Read) -> None:
        rows = read("a.csv", b"q,a\n1,2\n3\n4,5,6\n7,8\n", ["q", "a"])
        assert [type(row) for row in rows] == [RawRow, BadRow, BadRow, RawRow]
        assert rows[1] == BadRow(2, "the row has 1 fields instead of 2 (q, a)")

    def test_a_broken_quote_costs_one_row(self, read: Read) -> None:
        rows = read("a.csv", b'q,a\n1,2\n"3"x,4\n5,6\n', ["q", "a"])
        assert [row.number for row in rows] == [1, 2, 3]
        assert [type(row) for row in rows] == [RawRow, BadRow, RawRow]

    def test_a_quote_that_is_never_closed_is_a_bad_row(self, read: Read) -> None:
        rows = read("a.csv", b'q,a\n1,2\n"3,4\n5,6\n', ["q", "a"])
        assert [type(row) for row in rows] == [RawRow, BadRow]

    def test_a_column_that_the_header_lacks_fails_the_file_and_suggests_the_nearest(self, read: Read) -> None:
        with pytest.raises(MissingColumnError, match=r"a\.csv has no column 'question'; did you mean 'Question'"):
            read("a.csv", b"Question,answer\n1,2\n", ["question"])

    def test_fields_longer_than_the_csv_modules_default_are_read(self, read: Read) -> None:
        assert values(read("a.csv", b"q\n" + b"x" * 500_000 + b"\n")) == [{"q": "x" * 500_000}]

    def test_nul_is_a_character(self, read: Read) -> None:
        assert values(read("a.csv", b"q\na\0b\n")) == [{"q": "a\0b"}]

    def test_a_file_that_is_not_utf_8_is_one_error(self, read: Read) -> None:
        with pytest.raises(UnreadableDataError, match=r"a\.csv is not UTF-8"):
            read("a.csv", b"q\n1\n\xff\n")

    def test_an_empty_file_has_no_rows(self, read: Read) -> None:
        assert read("a.csv", b"") == []
        assert read("a.csv", b"q\n") == []


class TestParquet:
    def write(self, path: Path, columns: dict[str, list[Any]]) -> bytes:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path)
        return path.read_bytes()

    def test_nested_values_come_back_plain(self, read: Read, tmp_path: Path) -> None:
        content = self.write(tmp_path / "x", {"q": ["a", "b"], "c": [{"text": ["x", "y"]}, None], "n": [1, 2]})
        assert read("a.parquet", content, ["q", "c"]) == [
            RawRow(1, {"q": "a", "c": {"text": ["x", "y"]}}),
            RawRow(2, {"q": "b", "c": None}),
        ]

    def test_bytes_cannot_be_text_of_a_prompt(self, read: Read, tmp_path: Path) -> None:
        (row,) = read("a.parquet", self.write(tmp_path / "x", {"q": [b"\x00"]}))
        assert row == BadRow(1, "a column holds bytes, which cannot be text in a prompt")

    def test_a_missing_column_fails_the_file(self, read: Read, tmp_path: Path) -> None:
        content = self.write(tmp_path / "x", {"question": ["a"]})
        with pytest.raises(MissingColumnError, match="no column 'qestion'; did you mean 'question'"):
            read("a.parquet", content, ["qestion"])

    def test_what_is_no_parquet_is_one_error(self, read: Read) -> None:
        with pytest.raises(UnreadableDataError, match="no readable Parquet file"):
            read("a.parquet", b"PAR1 not really")


def test_a_suffix_that_tells_no_format_is_an_error_that_lists_them(read: Read) -> None:
    with pytest.raises(UnreadableDataError, match="jsonl, json, csv, tsv, parquet"):
        read("a.txt", b"")


def test_a_stated_format_beats_the_suffix(read: Read) -> None:
    assert values(read("a.txt", b'{"q": 1}\n', format="jsonl")) == [{"q": 1}]
