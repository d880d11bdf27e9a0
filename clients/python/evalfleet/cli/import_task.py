"""`evalfleet import-task`: tasks of lm-evaluation-harness for the evaluation service."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from evalfleet.cli.json_output import json_option, write_json

_EXTRA = "pip install 'evalfleet[import-task]'"


@click.command(
    "import-task",
    epilog="""\b
Examples:
  evalfleet import-task lm_eval/tasks/arc/arc_challenge.yaml --out mysuites/tasks
  evalfleet import-task piqa.yaml --data validation=piqa/valid.jsonl
  evalfleet import-task mmlu_anatomy.yaml --few-shot 5 --out mysuites/tasks
  evalfleet import-task piqa.yaml --json | jq .remarks

The folder is one of $EVALFLEET_SUITE_DIRS. Data come from the hub, or from files below $EVALFLEET_DATA_DIR.""",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder in which NAME.yaml is written.  [default: standard output]",
)
@click.option(
    "--data",
    multiple=True,
    metavar="SPLIT=PATH",
    help="File of a split, below a folder of EVALFLEET_DATA_DIR, in place of the hub; repeatable.",
)
@click.option("--few-shot", type=click.IntRange(0, 64), help="Number of examples.  [default: what the file says]")
@click.option("--name", default="", help="Name of the task here.  [default: lm_eval_ and its name there]")
@click.option("--licence", default="", help="Licence of the data, for the file.")
@click.option("--citation", default="", help="What to cite for the data.")
@json_option
def import_task(
    file: Path,
    out: Path | None,
    data: tuple[str, ...],
    few_shot: int | None,
    name: str,
    licence: str,
    citation: str,
    json_path: Path | None,
) -> None:
    """Translate a task file of lm-evaluation-harness exactly, or say which of its fields cannot be."""
    try:
        from evalfleet.plugins import lm_eval_tasks
    except ModuleNotFoundError as missing:
        raise click.ClickException(f"importing tasks needs {missing.name}: {_EXTRA}") from None
    imported = lm_eval_tasks.import_task(
        file,
        data=_files(data),
        few_shot_count=few_shot,
        name=name,
        licence=licence,
        citation=citation,
        harness_version=_harness_version(file),
    )
    for remark in imported.remarks:
        click.echo(remark, err=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        target = out / f"{imported.name}.yaml"
        target.write_text(imported.text, encoding="utf-8")
        click.echo(f"wrote {target}", err=True)
    if not write_json(imported, json_path) and out is None:
        click.echo(imported.text, nl=False)


def _files(told: tuple[str, ...]) -> dict[str, str]:
    files = {}
    for each in told:
        split, equals, path = each.partition("=")
        if not (split and equals and path):
            raise click.BadParameter(f"{each!r} is not SPLIT=PATH", param_hint="--data")
        files[split] = path
    return files


def _harness_version(file: Path) -> str:
    """Return the version of the installed harness if the file is of it."""
    try:
        installed = version("lm-eval")
    except PackageNotFoundError:
        return ""
    return installed if "lm_eval" in file.resolve().parts else ""
