"""`evalfleet classify`: verdicts of the safety service, on one text or on a file of them."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evalfleet.cli.conversations import Line, read_line, write_line
from evalfleet.cli.session import Session
from evalfleet.cli.tables import number
from evalfleet.errors import EvalFleetError
from evalfleet.results import Decision, Verdict
from evalfleet.verdicts import Aspect, Conversation, Role, Safety


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
@click.option("--guard", metavar="NAME", help="The guard; default: the service's.  [see: evalfleet guards]")
@click.option("--policy", metavar="NAME", help="Which hazards count, and from where on.  [see: evalfleet policies]")
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True), help="Default: the policy's or the guard's.")
@click.option(
    "--aspect", type=click.Choice(["prompt", "response"]), help="As what to judge the last turn; default: by its role."
)
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
) -> None:
    """Judge whether a text is hazardous, or each of a file of texts."""
    if (text is None) == (source is None):
        raise click.UsageError("give either TEXT or --file")
    if source is None and output is not None:
        raise click.UsageError("--output goes with --file")
    if source is not None and prompt is not None:
        raise click.UsageError("--prompt goes with TEXT; in a file, each line may have a prompt of its own")
    if source is not None:
        judged = _Judged(session.fleet.safety, aspect=aspect, guard=guard, threshold=threshold, policy=policy)
        _classify_file(session, judged, source, output)
        return
    assert text is not None
    turns: list[tuple[Role, str]] = [("user", text)] if prompt is None else [("user", prompt), ("assistant", text)]
    verdict = session.fleet.safety.classify(turns, aspect=aspect, guard=guard, threshold=threshold, policy=policy)
    _show(session.out, verdict)
    if verdict.decision is Decision.ERROR:
        raise SystemExit(1)


class _Judged:
    """The lines of a file with their outcomes, in the file's order."""

    def __init__(
        self,
        safety: Safety,
        *,
        aspect: Aspect | None,
        guard: str | None,
        threshold: float | None,
        policy: str | None,
    ) -> None:
        self._safety = safety
        self._aspect: Aspect | None = aspect
        self._guard = guard
        self._threshold = threshold
        self._policy = policy

    def outcomes(self, source: IO[str]) -> Iterator[tuple[Line, Verdict | EvalFleetError]]:
        """Yield each line that is not blank, with what became of it."""
        waiting: dict[int, tuple[Line, Verdict | EvalFleetError | None]] = {}
        sent: dict[int, int] = {}

        def conversations() -> Iterator[Conversation]:
            count = 0
            for order, line in enumerate(_lines(source)):
                if isinstance(line.conversation, EvalFleetError):
                    waiting[order] = line, line.conversation
                    continue
                waiting[order] = line, None
                sent[count] = order
                count += 1
                yield line.conversation

        following = 0
        answers = self._safety.classify_many(
            conversations(), aspect=self._aspect, guard=self._guard, threshold=self._threshold, policy=self._policy
        )
        for index, outcome in answers:
            order = sent.pop(index)
            waiting[order] = waiting[order][0], outcome
            while (ready := waiting.get(following)) is not None and ready[1] is not None:
                yield ready[0], ready[1]
                del waiting[following]
                following += 1
        for order in sorted(waiting):
            line, result = waiting[order]
            assert result is not None, "the stream has ended, so every line has an outcome"
            yield line, result


def _lines(source: IO[str]) -> Iterator[Line]:
    for line_number, text in enumerate(source, start=1):
        if text.strip():
            yield read_line(line_number, text)


def _classify_file(session: Session, judged: _Judged, source: IO[str], output: Path | None) -> None:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        target = stack.enter_context(output.open("w", encoding="utf-8")) if output else sys.stdout
        is_apart = output is not None or not session.out.is_terminal
        progress = stack.enter_context(_progress(session.err, is_shown=is_apart))
        task = progress.add_task("judging", total=_line_count(source))
        for line, outcome in judged.outcomes(source):
            target.write(write_line(line, outcome) + "\n")
            counts["failed" if isinstance(outcome, EvalFleetError) else outcome.decision.value] += 1
            progress.advance(task)
    told = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())) or "no lines"
    session.err.print(told, markup=False)
    if counts["failed"] or counts[Decision.ERROR.value]:
        raise SystemExit(1)


def _progress(console: Console, *, is_shown: bool) -> Progress:
    """Make a bar; where the results go to the same terminal, it would be torn apart by them and is not shown."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not (is_shown and console.is_terminal))


def _line_count(source: IO[str]) -> int | None:
    """Count the lines that are not blank, and go back to where it was; None for what cannot go back."""
    if not source.seekable():
        return None
    start = source.tell()
    count = sum(1 for line in source if line.strip())
    source.seek(start)
    return count


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
    if verdict.truncated:
        out.print("  the text is longer than the guard reads: only a part was judged", markup=False)
