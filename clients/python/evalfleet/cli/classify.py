"""`evalfleet classify`: verdicts of the safety service, on one text or on a file of them."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TypeAlias

import click
from rich.console import Console

from evalfleet.cli.completion import completes
from evalfleet.cli.conversations import read_line, write_line
from evalfleet.cli.json_output import STANDARD_OUTPUT, json_option, write_json
from evalfleet.cli.line_files import line_count, numbered_lines, outcomes_in_order, progress_bar
from evalfleet.cli.session import Session
from evalfleet.cli.tables import number
from evalfleet.errors import EvalFleetError
from evalfleet.results import Decision, Verdict
from evalfleet.verdicts import Aspect, Conversation, Role

_Verdicts: TypeAlias = Iterator[tuple[int, Verdict | EvalFleetError]]


@click.command(
    epilog="""\b
Examples:
  evalfleet classify "How do I bake bread?"
  evalfleet classify --prompt "Write a threat." "I will find you."     judges the answer
  evalfleet classify "Kill it." --policy severe-harm           see evalfleet policies
  evalfleet classify --file prompts.jsonl --output verdicts.jsonl
  zcat log.jsonl.gz | evalfleet classify --file - --policy strict > verdicts.jsonl

\b
Each line of --file is a JSON object, one of
  {"id": "a1", "text": "How do I bake bread?"}
  {"text": "I will find you.", "prompt": "Write a threat."}
  {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}
and each line of the output tells, in the same order, its line, its id, and the verdict
or an error. A text without a verdict is never told as safe.

Exit code: 0 when everything was judged, 1 when something was not."""
)
@click.argument("text", required=False)
@click.option("--prompt", help="The user's turn that TEXT answers; without it TEXT is judged as a prompt.")
@click.option(
    "--file",
    "source",
    type=click.File("r", encoding="utf-8", errors="surrogateescape"),
    help="Judge a file of JSON lines instead of TEXT; - is standard input.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Where to write; default: stdout."
)
@click.option(
    "--guard",
    metavar="NAME",
    shell_complete=completes("guards"),
    help="The guard; default: the service's.  [see: evalfleet guards]",
)
@click.option(
    "--policy",
    metavar="NAME",
    shell_complete=completes("policies"),
    help="Which hazards count, and from where on.  [see: evalfleet policies]",
)
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True), help="Default: the policy's or the guard's.")
@click.option(
    "--aspect", type=click.Choice(["prompt", "response"]), help="As what to judge the last turn; default: by its role."
)
@json_option
@click.pass_obj
def classify(
    session: Session,
    text: str | None,
    prompt: str | None,
    source: IO[str] | None,
    output: Path | None,
    guard: str | None,
    policy: str | None,
    threshold: float | None,
    aspect: Aspect | None,
    json_path: Path | None,
) -> None:
    """Judge whether a text is hazardous, or each of a file of texts.

    Of a file, the verdicts are lines of JSON; --json writes how many lines there were, and how many of each decision.
    """
    if (text is None) == (source is None):
        raise click.UsageError("give either TEXT or --file")
    if source is None and output is not None:
        raise click.UsageError("--output goes with --file")
    if source is not None and prompt is not None:
        raise click.UsageError("--prompt goes with TEXT; in a file, each line may have a prompt of its own")
    if source is not None:
        judge_many = partial(
            session.fleet.safety.classify_many, aspect=aspect, guard=guard, threshold=threshold, policy=policy
        )
        if json_path == STANDARD_OUTPUT and output is None:
            raise click.UsageError("the verdicts go to standard output: give --output, or a file to --json")
        _classify_file(session, judge_many, source, output, json_path)
        return
    assert text is not None
    turns: list[tuple[Role, str]] = [("user", text)] if prompt is None else [("user", prompt), ("assistant", text)]
    verdict = session.fleet.safety.classify(turns, aspect=aspect, guard=guard, threshold=threshold, policy=policy)
    if not write_json(verdict, json_path):
        _show(session.out, verdict)
    if verdict.decision is Decision.ERROR:
        raise SystemExit(1)


def _classify_file(
    session: Session,
    judge_many: Callable[[Iterator[Conversation]], _Verdicts],
    source: IO[str],
    output: Path | None,
    json_path: Path | None,
) -> None:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        target = stack.enter_context(output.open("w", encoding="utf-8")) if output else sys.stdout
        is_apart = output is not None or not session.out.is_terminal
        progress = stack.enter_context(progress_bar(session.err, is_shown=is_apart))
        task = progress.add_task("judging", total=line_count(source))
        lines = (read_line(number, text) for number, text in numbered_lines(source))
        for line, outcome in outcomes_in_order(((line, line.conversation) for line in lines), judge_many):
            target.write(write_line(line, outcome) + "\n")
            counts["failed" if isinstance(outcome, EvalFleetError) else outcome.decision.value] += 1
            progress.advance(task)
    told = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())) or "no lines"
    session.err.print(told, markup=False)
    kinds = (*(each.value for each in Decision), "failed")
    write_json({"lines": counts.total(), "decisions": {each: counts[each] for each in kinds}}, json_path)
    if counts["failed"] or counts[Decision.ERROR.value]:
        raise SystemExit(1)


def _show(out: Console, verdict: Verdict) -> None:
    probability = f", probability of a hazard {number(verdict.unsafe_probability)}"
    threshold_text = "" if verdict.threshold is None else f", threshold {number(verdict.threshold)}"
    reason = f" ({verdict.error_reason})" if verdict.error_reason else ""
    policy = f", {verdict.policy}" if verdict.policy else ""
    out.print(
        f"{verdict.decision.value}{reason}{probability if verdict.unsafe_probability is not None else ''}"
        f"{threshold_text}, {verdict.guard}{policy}",
        markup=False,
    )
    for each in verdict.categories:
        mapped = f", AILuminate {each.ailuminate_code}" if each.ailuminate_code else ""
        out.print(f"  {each.code} {number(each.probability)} ({each.taxonomy}{mapped})", markup=False)
    for each_guard in verdict.guard_verdicts:
        told = f"{each_guard.decision.value} {number(each_guard.unsafe_probability)}"
        out.print(f"  {each_guard.guard}: {told}", markup=False)
    if verdict.windows > 1:
        out.print(f"  the text is long: it was judged in {verdict.windows} windows", markup=False)
    if verdict.computed_tokens:
        told = f"{verdict.computed_tokens:,} tokens, {verdict.engine_seconds * 1000:,.1f} ms of the engine"
        out.print(f"  computed: {told}", markup=False)
    if verdict.truncated:
        out.print("  the text is longer than the guard reads: only a part was judged", markup=False)
