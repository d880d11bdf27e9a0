"""`evalfleet generate`: one answer, token by token."""

from pathlib import Path

import click

from evalfleet.answers import Answer, Prompt, Role, Sampling
from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.reports import results_console
from evalfleet.cli.session import Session


@click.command(
    epilog="""\b
Examples:
  evalfleet generate step-100 "What is 2 + 3?"
  evalfleet generate step-100 "Write a poem." --system "Be brief." --temperature 0.8 --seed 1
  evalfleet generate step-100 "2 + 3 =" --raw --max-tokens 4       no chat template

Ctrl-C stops the engine's work, too."""
)
@click.argument("model", shell_complete=completes("models"))
@click.argument("prompt")
@click.option("--system", metavar="TEXT", help="Instructions before the conversation.")
@click.option("--raw", is_flag=True, help="Give PROMPT to the model as it is, without its chat template.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens to generate.  [default: 256]")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 takes the likeliest token.  [default: 0]")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Share of probability to choose from.")
@click.option("--seed", type=int, help="Makes a sampled answer repeatable.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable.")
@json_option
@click.pass_obj
def generate(
    session: Session,
    model: str,
    prompt: str,
    system: str | None,
    raw: bool,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    json_path: Path | None,
) -> None:
    """Let MODEL answer PROMPT and show the answer as it grows."""
    if raw and system:
        raise click.UsageError("--raw gives PROMPT alone to the model; leave out --system, or write it into PROMPT")
    turns: list[tuple[Role, str]] = [("system", system)] if system else []
    wanted: Prompt = prompt if raw else [*turns, ("user", prompt)]
    sampling = Sampling(max_tokens, temperature, top_p, None, stop, seed)
    console = results_console(session, json_path)
    for event in session.fleet.generation.generate_tokens(model, wanted, sampling):
        if isinstance(event, Answer):
            console.print()
            session.err.print(f"{event.completion_tokens} tokens, {event.finish_reasons[0]}", style="dim", markup=False)
            write_json(event, json_path)
        else:
            console.print(event, end="", markup=False, soft_wrap=True)
