"""The command `evalfleet distill-guard`."""

from pathlib import Path

import click
from evalfleet.cli.completion import completes
from evalfleet.cli.session import Session

from services.distillation.plan import LEAST_BUDGET, Plan
from services.runtime.errors import FleetError

_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_FILE = click.Path(dir_okay=False, path_type=Path)
_KINDS = ("ngrams", "minilm")
_USUAL = Plan()


@click.command(
    epilog="""\b
Examples:
  evalfleet distill-guard texts.jsonl --teacher llama-guard --out guards/small
  evalfleet distill-guard texts.jsonl --teacher llama-guard --out guards/small --budget 5000 \\
      --compare-random --json small.json

\b
Each line of ROWS is a JSON object: {"text": …}, {"prompt": …, "response": …} or {"messages": …},
and perhaps "label": "safe" or "unsafe" of people, which is measured on and never learnt.
Draw the rows like the texts that the guard will judge; some tens of thousands are not too many.

\b
What comes next: name the folder in the guards file and let it decide what it is sure of,
  guards:
    - {name: small, kind: ngrams, folder: guards/small}
  evalfleet calibrate-guard other-texts.jsonl --guard small --guard llama-guard --out cascade.json""",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("rows", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option(
    "--teacher",
    required=True,
    metavar="NAME",
    shell_complete=completes("guards"),
    help="The guard of the running service that labels the texts.",
)
@click.option(
    "--student",
    type=click.Choice(_KINDS),
    default="ngrams",
    show_default=True,
    help="What is trained: a linear classifier on n-grams, which needs no Triton, or the embedded guard's encoder.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to make; it must not be there.")
@click.option(
    "--budget",
    type=click.IntRange(min=LEAST_BUDGET),
    default=_USUAL.budget,
    show_default=True,
    help="Texts that the teacher labels, those to measure on included.",
)
@click.option(
    "--labels", type=_FILE, help="The teacher's labels are kept here, and not asked twice.  [default: OUT.labels.jsonl]"
)
@click.option(
    "--held-out",
    type=_SHARE,
    default=_USUAL.held_out_share,
    show_default=True,
    help="Share of the budget to measure on.",
)
@click.option(
    "--first",
    type=_SHARE,
    default=_USUAL.first_share,
    show_default=True,
    help="Share of the labels to learn from that is drawn at random, before there is a student to ask.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=_USUAL.rounds,
    show_default=True,
    help="Fits in which the rest is chosen: what the student is least sure of.",
)
@click.option(
    "--random-share",
    type=click.FloatRange(0, 1),
    default=_USUAL.random_share,
    show_default=True,
    help="Share of every round that is drawn at random all the same.",
)
@click.option(
    "--compare-random",
    is_flag=True,
    help="Also train on as many labels drawn at random. Asks the teacher about those that it has not labelled yet.",
)
@click.option(
    "--encoder",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    envvar="EVALFLEET_ENCODER_PATH",
    help="Folder of the encoder of minilm.  [default: the offline package, then the hub]",
)
@click.option("--json", "json_file", type=_FILE, help="Also write plan, costs and figures here.")
@click.option("--seed", type=int, default=_USUAL.seed, show_default=True, help="Of everything that is drawn.")
@click.pass_obj
def distill_guard(
    session: Session,
    *,
    rows: Path,
    teacher: str,
    student: str,
    out: Path,
    budget: int,
    labels: Path | None,
    held_out: float,
    first: float,
    rounds: int,
    random_share: float,
    compare_random: bool,
    encoder: Path | None,
    json_file: Path | None,
    seed: int,
) -> None:
    """Train a small guard from a larger one's labels.

    The larger guard, the teacher, labels a part of ROWS: first some at random, then round by round those that the
    small one, the student, is least sure of. Each label is a call of the teacher, so as few are asked for as --budget
    allows, they are kept in a file as they come, and a second run goes on from there. Then the student is held against
    the teacher, and both against the labels of people, on texts that it never learnt from.
    """
    # Help must come at once, and these bring numpy and scikit-learn with them.
    from services.distillation.report import quality_table, remarks
    from services.distillation.running import Job, run_job

    plan = Plan(budget, held_out, first, rounds, random_share, seed)
    labels_file = labels or out.with_name(f"{out.name}.labels.jsonl")
    job = Job(rows, teacher, student, out, labels_file, plan, compare_random, json_file, encoder)
    try:
        outcome = run_job(session, job)
    except FleetError as error:
        raise click.ClickException(error.message) from error
    session.out.print(quality_table(outcome))
    entry = outcome.distilled.student.entry(job.guard_name, out)
    for line in (*remarks(outcome), f"for the guards file: - {entry}"):
        session.out.print(line, markup=False, soft_wrap=True)
