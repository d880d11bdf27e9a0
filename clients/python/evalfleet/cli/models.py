"""`evalfleet models`: the registered checkpoints."""

import os
from pathlib import Path

import click
from rich.console import Console

from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import error_fields, json_option, write_json
from evalfleet.cli.reports import results_console
from evalfleet.cli.session import Session
from evalfleet.cli.tables import models_table
from evalfleet.errors import EvalFleetError
from evalfleet.models import ForeignProtocol
from evalfleet.names import full_name
from evalfleet.results import Model


def register(
    session: Session,
    folder: str | os.PathLike[str] | None,
    *,
    console: Console,
    adapter: str | None = None,
    hub: str | None = None,
    revision: str | None = None,
    model_id: str | None = None,
    dtype: str | None = None,
    engine: str | None = None,
) -> Model:
    """Register a checkpoint and wait until it is loaded, with a spinner on a terminal."""
    with console.status(f"loading {hub if folder is None else os.fspath(folder)}"):
        try:
            model = session.fleet.models.add(
                folder, adapter=adapter, hub=hub, revision=revision, model_id=model_id, dtype=dtype, engine=engine
            )
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; the fleet goes on loading, see `evalfleet models`") from None
    console.print(f"{model.name}: {model.architecture}, {model.dtype}, {model.checkpoint_path or hub}", markup=False)
    return model


def may_be_a_folder(path: str) -> bool:
    """Whether a path is a folder here, a URL, or may be a folder where the services are: those see absolute paths."""
    return "://" in path or os.path.isabs(path) or os.path.isdir(path)


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  evalfleet models                              list them
  evalfleet models add out/step-100 --id step-100
  evalfleet models connect llm:8001 llama --protocol vllm-backend --tokenizer out/llama
  evalfleet models rm step-100
  evalfleet models --json | jq -r '.[] | select(.state == "ready") | .name'""",
)
@json_option
@click.pass_context
def models(ctx: click.Context, json_path: Path | None) -> None:
    """List, add, connect and remove models."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_models, json_path=json_path)
    elif json_path:
        raise click.UsageError(f"--json goes behind {ctx.invoked_subcommand}")


@models.command("list")
@json_option
@click.pass_obj
def list_models(session: Session, json_path: Path | None) -> None:
    """List the registered models."""
    found = session.fleet.models.list()
    if write_json(found, json_path):
        return
    if not found:
        session.out.print("no models yet: evalfleet models add DIR", markup=False)
        return
    session.out.print(models_table(found))
    for model in found:
        if model.failure:
            session.out.print(f"{model.name}: {model.failure}", style="red", markup=False, soft_wrap=True)


@models.command(
    epilog="""\b
Examples:
  evalfleet models add out/step-100
  evalfleet models add out/step-100 --id step-100 --dtype bfloat16
  evalfleet models add out/base --adapter out/lora-100
  evalfleet models add s3://bucket/step-100
  evalfleet models add --hub organization/name --revision main"""
)
@click.argument("checkpoint", required=False, metavar="[DIR|URL]")
@click.option("--adapter", metavar="DIR|URL", help="LoRA adapter in peft's format, merged into the checkpoint.")
@click.option("--hub", metavar="REPOSITORY", help="Repository of a Hugging Face hub, in place of a folder.")
@click.option("--revision", help="Branch, tag or commit of the repository; default: main.")
@click.option("--id", "model_id", metavar="ID", help="Id of the model; default: from the folder's name and content.")
@click.option("--dtype", help="float32, bfloat16, float16 or auto; default: chosen by the fleet.")
@click.option("--engine", help="transformers, vllm or auto; default: chosen by the fleet.")
@json_option
@click.pass_obj
def add(
    session: Session,
    checkpoint: str | None,
    adapter: str | None,
    hub: str | None,
    revision: str | None,
    model_id: str | None,
    dtype: str | None,
    engine: str | None,
    json_path: Path | None,
) -> None:
    """Register a checkpoint, which loads it: a folder, a URL or a repository of a hub."""
    if (checkpoint is None) == (hub is None):
        raise click.UsageError("give a folder or a URL, or a repository with --hub")
    if revision and not hub:
        raise click.UsageError("--revision belongs to --hub")
    for path in (checkpoint, adapter):
        if path and not may_be_a_folder(path):
            raise click.UsageError(f"there is no folder {path}")
    model = register(
        session,
        checkpoint,
        console=results_console(session, json_path),
        adapter=adapter,
        hub=hub,
        revision=revision,
        model_id=model_id,
        dtype=dtype,
        engine=engine,
    )
    write_json(model, json_path)


@models.command(
    epilog="""\b
The fleet must have been told that it may ask this Triton:
  EVALFLEET_FOREIGN_TRITONS=llm.example.org:8001 evalfleet up

\b
Examples:
  evalfleet models connect llm.example.org:8001 llama \\
      --protocol vllm-backend --tokenizer out/llama --revision 2026-11-20
  evalfleet models connect llm.example.org:8001 ensemble \\
      --protocol tensorrt-llm --hub organization/name

\b
Generation works as with any model; of continuations, only those of one token can be scored."""
)
@click.argument("target", metavar="HOST:PORT")
@click.argument("model_name", metavar="MODEL")
@click.option(
    "--protocol",
    type=click.Choice(["vllm-backend", "tensorrt-llm"]),
    required=True,
    help="Triton's vLLM backend, or TensorRT-LLM's ensemble or BLS model.",
)
@click.option("--tokenizer", metavar="DIR|URL", help="Folder of the model's tokenizer and chat template.")
@click.option("--hub", metavar="REPOSITORY", help="Repository of a hub that holds the tokenizer, in place of a folder.")
@click.option("--hub-revision", help="Branch, tag or commit of the repository; default: main.")
@click.option("--version", "model_version", help="Version of the model there; default: the one that Triton chooses.")
@click.option("--revision", help="What its deployer calls the weights; without it, no answer is cached.")
@click.option("--id", "model_id", metavar="ID", help="Id of the model here; default: from its name there.")
@json_option
@click.pass_obj
def connect(
    session: Session,
    target: str,
    model_name: str,
    protocol: ForeignProtocol,
    tokenizer: str | None,
    hub: str | None,
    hub_revision: str | None,
    model_version: str | None,
    revision: str | None,
    model_id: str | None,
    json_path: Path | None,
) -> None:
    """Register a model that somebody else deployed in a Triton: it is asked there, and never loaded here."""
    if (tokenizer is None) == (hub is None):
        raise click.UsageError("give the model's tokenizer: --tokenizer DIR, or --hub REPOSITORY")
    if hub_revision and not hub:
        raise click.UsageError("--hub-revision belongs to --hub")
    if tokenizer and not may_be_a_folder(tokenizer):
        raise click.UsageError(f"there is no folder {tokenizer}")
    model = session.fleet.models.connect(
        target,
        model_name,
        protocol=protocol,
        tokenizer=tokenizer,
        hub=hub,
        hub_revision=hub_revision,
        model_version=model_version,
        revision=revision,
        model_id=model_id,
    )
    if write_json(model, json_path):
        return
    kept = "" if revision else "; its answers are not cached: no --revision"
    session.out.print(f"{model.name}: {model.foreign}, {model.engine}{kept}", markup=False)


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=completes("models"))
@json_option
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], json_path: Path | None) -> None:
    """Unload models and forget them; their files are left alone."""
    console = results_console(session, json_path)
    outcomes = []
    for name in names:
        told = full_name("models", name)
        try:
            session.fleet.models.remove(name)
        except EvalFleetError as error:
            session.err.print(f"Error: {error.explanation()}", markup=False)
            outcomes.append({"name": told, "is_removed": False, "error": error_fields(error)})
        else:
            console.print(f"{told} removed", markup=False)
            outcomes.append({"name": told, "is_removed": True, "error": None})
    write_json(outcomes, json_path)
    if not all(each["is_removed"] for each in outcomes):
        raise SystemExit(1)
