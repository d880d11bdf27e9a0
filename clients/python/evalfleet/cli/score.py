"""`evalfleet score`: scores of the scoring service, on a file of outputs."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import STANDARD_OUTPUT, error_fields, json_option, write_json
from evalfleet.cli.line_files import line_count, numbered_lines, outcomes_in_order, progress_bar
from evalfleet.cli.scorer_parameters import parsed_parameters
from evalfleet.cli.session import Session
from evalfleet.errors import EvalFleetError, InvalidArgumentError
from evalfleet.scorer_results import Score
from evalfleet.scores import ScorableOutput


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of input: the caller's id for it, and its output or what is wrong with it."""

    number: int
    item_id: object
    output: ScorableOutput | EvalFleetError


@click.command(
    epilog="""\b
Examples:
  evalfleet score --scorer exact_match --file outputs.jsonl
  evalfleet score --scorer exact_match -p ignore_case=true -p pattern='is (\\w+)' \\
      --file outputs.jsonl --output scores.jsonl
  zcat outputs.jsonl.gz | evalfleet score --file - > scores.jsonl

\b
Each line of --file is a JSON object with the fields of ScoreRequest, docs/api/scoring.md:
  {"id": "a1", "text": "It is Paris.", "targets": ["Paris"]}
  {"choices": {"log_likelihoods": [-2.1, -3.0], "choices": ["yes", "no"]}, "gold_indices": [0]}
  {"scorer": "token_f1", "text": "Paris, France", "targets": ["Paris"], "parameters": {}}
and each line of the output tells, in the same order, its line, its id, and the metrics
or an error.

Exit code: 0 when everything was scored, 1 when something was not."""
)
@click.option(
    "--file",
    "source",
    required=True,
    type=click.File("r", encoding="utf-8", errors="surrogateescape"),
    help="Outputs as JSON lines; - is standard input.",
)
@click.option(
    "--scorer",
    default="",
    metavar="NAME",
    shell_complete=completes("scorers"),
    help="Of lines that name none.  [see: evalfleet scorers]",
)
@click.option(
    "--parameter",
    "-p",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=parsed_parameters,
    help="A parameter of the scorer, as JSON or as plain text; repeatable. For lines that bring none of their own.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Where to write; default: stdout."
)
@json_option
@click.pass_obj
def score(
    session: Session,
    source: IO[str],
    scorer: str,
    parameters: Mapping[str, object],
    output: Path | None,
    json_path: Path | None,
) -> None:
    """Score each of a file of outputs.

    The scores are lines of JSON; --json writes how many lines there were, and how many failed.
    """
    if json_path == STANDARD_OUTPUT and output is None:
        raise click.UsageError("the scores go to standard output: give --output, or a file to --json")
    failed_count = scored_count = 0

    def score_many(outputs: Iterator[ScorableOutput]) -> Iterator[tuple[int, Score | EvalFleetError]]:
        return session.fleet.scoring.score_many(outputs, scorer=scorer, parameters=parameters)

    with ExitStack() as stack:
        target = stack.enter_context(output.open("w", encoding="utf-8")) if output else sys.stdout
        is_apart = output is not None or not session.out.is_terminal
        progress = stack.enter_context(progress_bar(session.err, is_shown=is_apart))
        bar = progress.add_task("scoring", total=line_count(source))
        lines = (_read_line(number, text) for number, text in numbered_lines(source))
        for line, outcome in outcomes_in_order(((line, line.output) for line in lines), score_many):
            target.write(_write_line(line, outcome) + "\n")
            is_failed = isinstance(outcome, EvalFleetError)
            failed_count, scored_count = failed_count + is_failed, scored_count + (not is_failed)
            progress.advance(bar)
    failures = f", {failed_count:,} failed" if failed_count else ""
    session.err.print(f"{scored_count:,} scored{failures}", markup=False)
    write_json({"lines": scored_count + failed_count, "scored": scored_count, "failed": failed_count}, json_path)
    if failed_count:
        raise SystemExit(1)


def _read_line(number: int, text: str) -> _Line:
    item_id: object = None
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError('must be an object, e.g. {"text": "…", "targets": ["…"]}')
        item_id = content.pop("id", None)
        return _Line(number, item_id, content)
    except (ValueError, RecursionError) as error:
        return _Line(number, item_id, InvalidArgumentError(f"line {number}: {error}", reason="LINE_INVALID"))


def _write_line(line: _Line, outcome: Score | EvalFleetError) -> str:
    """Write what became of a line; an error has no metrics, so that nobody takes it for a score."""
    result: dict[str, object] = {"line": line.number}
    if line.item_id is not None:
        result["id"] = line.item_id
    if isinstance(outcome, EvalFleetError):
        result["error"] = error_fields(outcome)
    else:
        reference = outcome.scorer
        result["metrics"] = dict(outcome.metrics)
        result["extracted_answer"] = outcome.extracted_answer
        result["scorer"] = {"name": reference.name, "version": reference.version, "digest": reference.digest}
    return json.dumps(result)
