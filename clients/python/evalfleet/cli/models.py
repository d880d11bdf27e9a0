"""`evalfleet models`: the registered checkpoints."""

import os
from pathlib import Path

import click
from rich.console import Console

from evalfleet.cli.session import Session
from evalfleet.cli.tables import models_table
from evalfleet.errors import EvalFleetError
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


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  evalfleet models                              list them
  evalfleet models add out/step-100 --id step-100
  evalfleet models rm step-100""",
)
@click.pass_context
def models(ctx: click.Context) -> None:
    """List, add and remove models."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_models)


@models.command("list")
@click.pass_obj
def list_models(session: Session) -> None:
    """List the registered models."""
    found = session.fleet.models.list()
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
) -> None:
    """Register a checkpoint, which loads it: a folder, a URL or a repository of a hub."""
    if (checkpoint is None) == (hub is None):
        raise click.UsageError("give a folder or a URL, or a repository with --hub")
    if revision and not hub:
        raise click.UsageError("--revision belongs to --hub")
    for path in (checkpoint, adapter):
        if path and "://" not in path and not Path(path).is_dir():
            raise click.UsageError(f"there is no folder {path}")
    register(
        session,
        checkpoint,
        console=session.out,
        adapter=adapter,
        hub=hub,
        revision=revision,
        model_id=model_id,
        dtype=dtype,
        engine=engine,
    )


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.pass_obj
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Unload models and forget them; their files are left alone."""
    failed = False
    for name in names:
        try:
            session.fleet.models.remove(name)
        except EvalFleetError as error:
            session.err.print(f"Error: {error.explanation()}", markup=False)
            failed = True
        else:
            session.out.print(f"{full_name('models', name)} removed", markup=False)
    if failed:
        raise SystemExit(1)
