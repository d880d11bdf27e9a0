"""`evalfleet bulk`: classify, score or generate over files of any size, with Ray; goes on where it ended."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evalfleet.answers import Sampling
from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.line_files import progress_bar
from evalfleet.cli.run import INTERRUPTED
from evalfleet.cli.scorer_parameters import parsed_parameters
from evalfleet.cli.session import Session
from evalfleet.verdicts import Aspect

if TYPE_CHECKING:
    from evalfleet.ray import BulkProgress
    from evalfleet.ray.questions import Question

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _parsed_columns(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    columns = {}
    for value in values:
        name, equals, column = value.partition("=")
        if not (name and equals and column):
            raise click.BadParameter(f"{value!r} is not NAME=COLUMN, for example text=answer")
        columns[name] = column
    return columns


def _shared(command: CommandT) -> CommandT:
    """Add what all kinds of bulk work take."""
    for option in (
        json_option,
        click.option(
            "--address", default="local", show_default=True, help="A Ray cluster: HOST:PORT, ray://… or auto."
        ),
        click.option("--workers", type=click.IntRange(1, 10_000), default=2, show_default=True, help="Actors of Ray."),
        click.option(
            "--window",
            type=click.IntRange(1, 4096),
            default=64,
            show_default=True,
            help="Rows that each worker has in flight at most.",
        ),
        click.option(
            "--patience",
            type=click.FloatRange(0),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="How long the service may be away before the job ends; it can be gone on with.",
        ),
        click.option("--piece-rows", type=click.IntRange(min=1), default=4096, show_default=True, help="Of Parquet."),
        click.option(
            "--piece-bytes", type=click.IntRange(min=1024), default=4 << 20, show_default=True, help="Of JSON lines."
        ),
        click.option("--prefix", default="", help="Before the names of the answers' columns."),
        click.option(
            "--keep",
            multiple=True,
            metavar="COLUMN",
            help="A column to write beside the answers; repeatable. Default: all of Parquet; of JSON lines the line.",
        ),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="NAME=COLUMN",
            callback=_parsed_columns,
            help="The column that holds what is read as NAME: text=answer; repeatable.",
        ),
        click.option("--out", required=True, metavar="DIR", help="A folder of the job's own, or s3://… of a bucket."),
        click.argument("inputs", nargs=-1, required=True, metavar="INPUT..."),
    ):
        command = option(command)
    return command


@click.group(
    epilog="""\b
Examples:
  evalfleet bulk classify texts/*.parquet --out verdicts --column text=answer --guard llama-guard
  evalfleet bulk score outputs.jsonl --out scores --scorer exact_match
  evalfleet bulk generate hf://datasets/team/prompts --out answers --model step-100
  evalfleet bulk classify s3://bucket/texts --out s3://bucket/verdicts --address auto --workers 64

\b
INPUT is a file of rows (.parquet, .jsonl, also compressed), or a folder of them: of this machine,
of a bucket or of a hub's data set. The same command again goes on: what is finished in --out is
not asked again, and each row has exactly one result. Needs evalfleet[ray].

\b
Exit code: 0 every row has a result, 1 some have an error instead or the job could not be
finished, 130 interrupted."""
)
def bulk() -> None:
    """Classify, score or generate over files of any size, with Ray."""


@bulk.command(
    epilog="""\b
Example:
  evalfleet bulk classify texts.parquet --out verdicts --policy strict

\b
A row has text (and prompt, if the text answers one), messages or conversation. It gets decision,
unsafe_probability, categories, threshold, guard, policy, truncated, error_reason, error_message.
A row without a verdict is never told as safe."""
)
@_shared
@click.option("--guard", default="", metavar="NAME", shell_complete=completes("guards"), help="Default: the service's.")
@click.option("--policy", default="", metavar="NAME", shell_complete=completes("policies"), help="Which hazards count.")
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True), help="Default: the policy's or the guard's.")
@click.option("--aspect", type=click.Choice(["prompt", "response"]), help="Default: by the last turn's role.")
@click.pass_obj
def classify(
    session: Session,
    /,
    *,
    guard: str,
    policy: str,
    threshold: float | None,
    aspect: Aspect | None,
    columns: Mapping[str, str],
    **shared: Any,
) -> None:
    """Judge the safety of every row."""
    from evalfleet.ray import ClassifyQuestion

    _run(session, ClassifyQuestion(guard, policy, threshold, aspect, columns), "judging", **shared)


@bulk.command(
    epilog="""\b
Example:
  evalfleet bulk score outputs.parquet --out scores --scorer token_f1 --column targets=gold

\b
A row has the fields of ScoreRequest, docs/api/scoring.md: text, targets, choices … It gets
metrics, extracted_answer, scorer, scorer_digest, error_reason, error_message."""
)
@_shared
@click.option("--scorer", default="", metavar="NAME", shell_complete=completes("scorers"), help="Of rows without one.")
@click.option(
    "--parameter",
    "-p",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=parsed_parameters,
    help="A parameter of the scorer, as JSON or as plain text; repeatable.",
)
@click.pass_obj
def score(
    session: Session, /, *, scorer: str, parameters: Mapping[str, object], columns: Mapping[str, str], **shared: Any
) -> None:
    """Score every row."""
    from evalfleet.ray import ScoreQuestion

    _run(session, ScoreQuestion(scorer, parameters, columns), "scoring", **shared)


@bulk.command(
    epilog="""\b
Example:
  evalfleet bulk generate prompts.jsonl --out answers --model step-100 --max-tokens 64

\b
A row has prompt (and system), or messages. It gets answer, finish_reason, prompt_tokens,
completion_tokens, model_digest, is_cached, error_reason, error_message."""
)
@_shared
@click.option("--model", required=True, metavar="NAME", shell_complete=completes("models"), help="A registered model.")
@click.option("--raw", is_flag=True, help="Give prompts to the model as they are, without its chat template.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of an answer.  [default: 256]")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 takes the likeliest token.  [default: 0]")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Share of probability to choose from.")
@click.option("--seed", type=int, help="Makes sampled answers repeatable.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable.")
@click.pass_obj
def generate(
    session: Session,
    /,
    *,
    model: str,
    raw: bool,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    columns: Mapping[str, str],
    **shared: Any,
) -> None:
    """Let a model answer every row."""
    from evalfleet.ray import GenerateQuestion

    sampling = Sampling(max_tokens, temperature, top_p, None, stop, seed)
    _run(session, GenerateQuestion(model, sampling, raw, columns), "answering", **shared)


@contextmanager
def _going_on(session: Session) -> Iterator[None]:
    """Say that a job which is interrupted can be gone on with."""
    try:
        yield
    except KeyboardInterrupt:
        session.err.print("\nStopped. The same command goes on; what is finished is not asked again.", markup=False)
        raise SystemExit(INTERRUPTED) from None


def _run(
    session: Session,
    question: "Question",
    doing: str,
    *,
    inputs: tuple[str, ...],
    out: str,
    keep: tuple[str, ...],
    prefix: str,
    piece_rows: int,
    piece_bytes: int,
    patience: float,
    window: int,
    workers: int,
    address: str,
    json_path: Path | None,
) -> None:
    from evalfleet.ray import Asking, BulkJob, Layout, run_bulk

    job = BulkJob(question, inputs, out, Layout(piece_rows, piece_bytes, keep), prefix)
    with _going_on(session), progress_bar(session.err, is_shown=True) as bar:
        task = bar.add_task(f"{doing}: pieces", total=None)

        def show(progress: "BulkProgress") -> None:
            failed = f", {progress.done.failed:,} failed" if progress.done.failed else ""
            told = f"{doing}: {progress.done.rows:,} rows{failed}; pieces"
            bar.update(task, description=told, total=progress.piece_count, completed=progress.finished_pieces)

        done = run_bulk(
            job,
            targets=session.targets,
            state_dir=session.state_dir,
            address=address,
            workers=workers,
            asking=Asking(window, patience),
            report=show,
        )
    if not write_json(done, json_path):
        outcomes = "".join(f", {count:,} {name}" for name, count in done.outcomes.items())
        resumed = (
            f"; {done.resumed_pieces:,} of {done.pieces:,} pieces were finished before" if done.resumed_pieces else ""
        )
        line = f"{done.out}: {done.rows:,} rows{outcomes}, {done.failed:,} without a result{resumed}"
        session.out.print(line, markup=False, soft_wrap=True)
    if done.failed:
        raise SystemExit(1)
