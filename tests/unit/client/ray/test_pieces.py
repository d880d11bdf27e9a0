"""A job's pieces: every row is in exactly one of them, wherever the cuts fall."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evalfleet.errors import EvalFleetError, InvalidArgumentError, NotFoundError
from evalfleet.ray import BulkJob, ClassifyQuestion, run_bulk
from evalfleet.ray.parquet_rows import ParquetRows
from evalfleet.ray.pieces import Layout, cut, kept_schema, read_blocks
from evalfleet.ray.row_blocks import BLOCK_ROWS
from evalfleet.ray.sources import find_files, is_rows

INPUTS = {"text": "text"}


def read(layout: Layout, *inputs: Path) -> tuple[list[object], list[int], list[pa.Table]]:
    """The texts of all pieces in their order, their positions, and what is kept of them."""
    files = find_files([str(each) for each in inputs])
    kept = kept_schema(files, layout)
    parquet = ParquetRows()
    blocks = [block for piece in cut(files, layout) for block in read_blocks(piece, kept, INPUTS, parquet)]
    texts = [
        row.reason if isinstance(row, EvalFleetError) else row.get("text") for block in blocks for row in block.rows
    ]
    return texts, [each for block in blocks for each in block.positions], [block.kept for block in blocks]


@pytest.mark.parametrize("piece_rows", [1, 7, 10, 24, 25, 99])
def test_parquet_is_cut_by_rows_across_its_groups(tmp_path: Path, piece_rows: int) -> None:
    rows = [{"text": f"t{index}", "id": index} for index in range(25)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=10)
    texts, positions, kept = read(Layout(piece_rows=piece_rows), tmp_path / "a.parquet")
    assert texts == [each["text"] for each in rows]
    assert positions == list(range(25))
    assert pa.concat_tables(kept).to_pylist() == rows


def test_a_group_is_decoded_once_for_all_pieces_that_come_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, decoded = 5 * BLOCK_ROWS, 0
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [str(each) for each in range(count)]}), file, row_group_size=count - 100)
    iter_batches = pq.ParquetFile.iter_batches

    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        nonlocal decoded
        for batch in iter_batches(*arguments, **options):
            decoded += batch.num_rows
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    texts, positions, _ = read(Layout(piece_rows=300), file)
    assert texts == [str(each) for each in range(count)]
    assert positions == list(range(count))
    assert decoded == count

    # Two workers get every second piece each; one that has gone too far begins again.
    files, layout = find_files([str(file)]), Layout(piece_rows=300)
    kept, pieces, parquet = kept_schema(files, layout), cut(files, layout), ParquetRows()
    for some in (pieces[1::2], pieces[::2], pieces[3:1:-1]):
        for piece in some:
            found = [each for block in read_blocks(piece, kept, INPUTS, parquet) for each in block.positions]
            assert found == list(range(piece.begin, piece.end))
    assert decoded < 4 * count


def test_a_large_group_is_read_in_blocks(tmp_path: Path) -> None:
    count = 2 * BLOCK_ROWS + 10
    pq.write_table(pa.table({"text": [str(each) for each in range(count)]}), tmp_path / "a.parquet")
    texts, positions, kept = read(Layout(piece_rows=count - 5), tmp_path / "a.parquet")
    assert texts == [str(each) for each in range(count)]
    assert positions == list(range(count))
    assert max(each.num_rows for each in kept) <= BLOCK_ROWS


def test_json_lines_are_cut_anywhere_and_each_line_is_read_once(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * (index % 5), "n": index}) for index in range(12)]
    lines[3] = ""
    lines[7] = json.dumps({"text": "ä€😀"}, ensure_ascii=False)
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    wanted = [json.loads(each)["text"] for each in lines if each]
    content = file.read_bytes()
    for size in range(1, len(content) + 2):
        texts, positions, kept = read(Layout(piece_bytes=size), file)
        assert texts == wanted, size
        begins = [content[at:].split(b"\n")[0].decode() for at in positions]
        assert begins == [each for each in lines if each] == pa.concat_tables(kept).column("row").to_pylist()


def test_a_line_that_is_no_row_is_a_row_with_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a"}\r\n[1]\n{"text": \n\xff\xfe\n{"other": 1}\n')
    texts, _, kept = read(Layout(), file)
    assert texts == ["a", "LINE_INVALID", "LINE_INVALID", "LINE_INVALID", None]
    assert kept[0].column("row").to_pylist()[0] == '{"text": "a"}'


def test_a_compressed_file_is_one_piece(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n'))
    assert len(cut(find_files([str(file)]), Layout(piece_bytes=2))) == 1
    assert read(Layout(piece_bytes=2), file)[0] == ["a", "b"]


def test_named_columns_of_json_lines_are_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "id": 7}\n{"text": "b", "id": "x"}\n{"text": "c"}\n')
    _, _, (kept,) = read(Layout(keep=("id",)), tmp_path / "a.jsonl")
    assert kept.to_pylist() == [{"id": "7"}, {"id": "x"}, {"id": None}]


def test_half_a_character_in_a_kept_column_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "id": "x\\ud83dy"}\n{"text": "b", "id": ["\\ude00"]}\n')
    texts, _, (kept,) = read(Layout(keep=("id",)), tmp_path / "a.jsonl")
    assert kept.to_pylist() == [{"id": "x?y"}, {"id": '["?"]'}]
    assert texts == ["a", "b"]


def test_a_folder_is_its_files_of_rows_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.jsonl", "deep/a.jsonl", "_SUCCESS", ".hidden.jsonl", "readme.md", "a.jsonl.zst"):
        (tmp_path / name).write_text("{}\n")
    found = [each.uri.removeprefix(f"{tmp_path}/") for each in find_files([str(tmp_path)])]
    assert found == ["a.jsonl.zst", "b.jsonl", "deep/a.jsonl"]
    assert not is_rows("x/_bulk.json")
    with pytest.raises(NotFoundError):
        find_files([str(tmp_path / "nowhere")])
    with pytest.raises(InvalidArgumentError):
        find_files([str(tmp_path / "readme.md")])


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "id": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a"], "id": ["1"]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text("{}\n")
    both = find_files([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")])
    with pytest.raises(InvalidArgumentError, match="--keep"):
        kept_schema(both, Layout())
    assert kept_schema(both, Layout(keep=("text",))).names == ["text"]
    with pytest.raises(InvalidArgumentError, match="has no column 'nothing'"):
        kept_schema(both, Layout(keep=("nothing",)))
    with pytest.raises(InvalidArgumentError, match="not both at once"):
        kept_schema(find_files([str(tmp_path)]), Layout())


def test_a_job_goes_on_from_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "in.parquet")
    (tmp_path / "deep").mkdir()
    for folder, name in ((tmp_path, "in.parquet"), (tmp_path / "deep", "../in.parquet")):
        monkeypatch.chdir(folder)
        job = BulkJob(ClassifyQuestion(), (name,), str(tmp_path / "out"))
        run_bulk(job, targets={"safety": "127.0.0.1:1"})
    (file,) = json.loads((tmp_path / "out" / "_bulk.json").read_text())["files"]
    assert file["uri"] == str(tmp_path / "in.parquet")
