"""`evalfleet guards` and `evalfleet policies`: who can judge safety, and by which rules."""

from pathlib import Path

import click

from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.session import Session
from evalfleet.cli.tables import guard_table, guards_table, number, policies_table


@click.command(
    epilog="""\b
Examples:
  evalfleet guards                      the guards of the safety service
  evalfleet guards minilm-hazard        its hazard categories and digests
  evalfleet classify "…" --guard minilm-hazard"""
)
@click.argument("names", nargs=-1, metavar="[GUARD]...", shell_complete=completes("guards"))
@json_option
@click.pass_obj
def guards(session: Session, names: tuple[str, ...], *, json_path: Path | None) -> None:
    """List the guards, or show what one knows and exactly which one it is."""
    found = [session.fleet.safety.guard(each) for each in names] if names else session.fleet.safety.guards()
    if write_json(found, json_path):
        return
    if not names:
        session.out.print(guards_table(found))
        return
    for guard in found:
        reference = guard.reference
        session.out.print(f"{guard.name}: {guard.description}", markup=False, soft_wrap=True)
        limit = "any length" if guard.max_tokens is None else f"{guard.max_tokens:,} tokens"
        session.out.print(
            f"judges {' and '.join(f'{each}s' for each in guard.aspects)}, reads {limit}, "
            f"threshold {number(guard.default_threshold)}, {reference.engine} {reference.dtype}",
            markup=False,
            soft_wrap=True,
        )
        for what, digest in (
            ("weights", reference.weights_digest),
            ("template", reference.template_digest),
            ("calibration", reference.calibration_digest),
        ):
            session.out.print(f"{what} {digest}", markup=False)
        session.out.print(guard_table(guard))


@click.command(
    epilog="""\b
Examples:
  evalfleet policies                    the policies of the safety service
  evalfleet policies strict             one of them, with its digest
  evalfleet classify "…" --policy strict

A policy of your own is a YAML file in a folder of $EVALFLEET_POLICY_DIRS of the
safety service; docs/api/safety.md shows one."""
)
@click.argument("names", nargs=-1, metavar="[POLICY]...", shell_complete=completes("policies"))
@json_option
@click.pass_obj
def policies(session: Session, names: tuple[str, ...], *, json_path: Path | None) -> None:
    """List the policies: which hazards count, from which probability on, and what becomes of errors."""
    found = [session.fleet.safety.policy(each) for each in names] if names else session.fleet.safety.policies()
    if write_json(found, json_path):
        return
    session.out.print(policies_table(found))
    for policy in found:
        if names:
            session.out.print(f"{policy.name}: digest {policy.digest}", markup=False, soft_wrap=True)
        if policy.problem:
            session.out.print(f"{policy.name} cannot be applied here: {policy.problem}", markup=False, soft_wrap=True)
