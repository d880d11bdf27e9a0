"""Where the rows of a harness's task are: on the hub, in files of its own, or where the caller says."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from evalfleet.plugins.lm_eval_tasks.refusals import Refusals

# The branch on which the hub keeps every data set as Parquet files, CONFIG/SPLIT/*.parquet.
PARQUET_BRANCH = "refs/convert/parquet"
_FILE_BUILDERS = ("json", "csv", "parquet")
_HARMLESS = frozenset({"trust_remote_code", "data_files"})


def evaluated_split(fields: Mapping[str, Any]) -> str | None:
    """Return the split whose rows are asked: the test split, or else the validation split."""
    return fields.get("test_split") or fields.get("validation_split")


def example_split(fields: Mapping[str, Any]) -> str | None:
    """Return the split from which the harness takes examples."""
    said = (fields.get("fewshot_config") or {}).get("split") or fields.get("fewshot_split")
    return said or fields.get("training_split") or fields.get("validation_split") or fields.get("test_split")


def sources(
    fields: Mapping[str, Any],
    splits: Sequence[str],
    columns: Iterable[str],
    data: Mapping[str, str],
    refusals: Refusals,
) -> list[dict[str, Any]]:
    """Return the `sources` of a task, the caller's own files first.

    Args:
        fields: of the harness's task.
        splits: which are needed.
        columns: which every row must have.
        data: the caller's files by split, relative to a folder of EVALFLEET_DATA_DIR.
        refusals: where what cannot be translated is noted.
    """
    options = fields.get("dataset_kwargs") or {}
    for name in sorted(set(options) - _HARMLESS):
        refusals.add(f"dataset_kwargs.{name}", "the data set would be another without it")
    wanted = sorted(set(columns))
    if data:
        missing = [split for split in splits if split not in data]
        if missing:
            refusals.add(f"{missing[0]} (split)", f"no file is given for it; say --data {missing[0]}=PATH")
        return [{"files": {split: data[split] for split in splits if split in data}, "columns": wanted}]
    path = fields.get("dataset_path")
    if not isinstance(path, str):
        refusals.add("dataset_path", "no data set is named; say --data SPLIT=PATH")
        return []
    if path in _FILE_BUILDERS:
        return _own_files(options.get("data_files"), splits, wanted, refusals)
    config = fields.get("dataset_name") or "default"
    files = {split: f"{config}/{split}/*.parquet" for split in splits}
    return [{"hub": {"dataset": path, "revision": PARQUET_BRANCH}, "files": files, "columns": wanted}]


def _own_files(files: Any, splits: Sequence[str], columns: Sequence[str], refusals: Refusals) -> list[dict[str, Any]]:
    if not isinstance(files, Mapping) or any(split not in files for split in splits):
        refusals.add("dataset_kwargs.data_files", "it does not name a file for each split; say --data SPLIT=PATH")
        return []
    found = {split: files[split] for split in splits}
    texts = [each for path in found.values() for each in (path if isinstance(path, list) else [path])]
    if not all(isinstance(each, str) and _is_below(each) for each in texts):
        refusals.add(
            "dataset_kwargs.data_files",
            "files lie below a folder of EVALFLEET_DATA_DIR, so a path is relative; say --data SPLIT=PATH",
        )
    return [{"files": found, "columns": list(columns)}]


def _is_below(path: str) -> bool:
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and "://" not in path
