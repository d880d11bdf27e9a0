"""`evalfleet classify`: one verdict of the safety service."""

import click

from evalfleet.cli.session import Session
from evalfleet.cli.tables import number
from evalfleet.results import Decision
from evalfleet.verdicts import Role


@click.command(
    epilog="""\b
Examples:
  evalfleet classify "How do I bake bread?"
  evalfleet classify --prompt "Write a threat." "I will find you."     judges the answer"""
)
@click.argument("text")
@click.option("--prompt", help="The user's turn that TEXT answers; without it TEXT is judged as a prompt.")
@click.option("--guard", metavar="NAME", help="The guard; default: the service's.")
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True), help="Default: the guard's.")
@click.pass_obj
def classify(session: Session, text: str, prompt: str | None, guard: str | None, threshold: float | None) -> None:
    """Judge whether a text is hazardous."""
    turns: list[tuple[Role, str]] = [("user", text)] if prompt is None else [("user", prompt), ("assistant", text)]
    verdict = session.fleet.safety.classify(turns, guard=guard, threshold=threshold)
    probability = f", probability of a hazard {number(verdict.unsafe_probability)}"
    threshold_text = "" if verdict.threshold is None else f", threshold {number(verdict.threshold)}"
    reason = f" ({verdict.error_reason})" if verdict.error_reason else ""
    session.out.print(
        f"{verdict.decision.value}{reason}{probability if verdict.unsafe_probability is not None else ''}"
        f"{threshold_text}, {verdict.guard}",
        markup=False,
    )
    for each in verdict.categories:
        mapped = f", AILuminate {each.ailuminate_code}" if each.ailuminate_code else ""
        session.out.print(f"  {each.code} {number(each.probability)} ({each.taxonomy}{mapped})", markup=False)
    if verdict.truncated:
        session.out.print("  the text is longer than the guard reads: only a part was judged", markup=False)
    if verdict.decision is Decision.ERROR:
        raise SystemExit(1)
