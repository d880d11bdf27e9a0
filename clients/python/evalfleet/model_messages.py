"""What the registry of checkpoints is asked, and what becomes of one that is loaded."""

import os
import uuid
from collections.abc import Mapping
from typing import Final, Literal

from evalfleet.connections import LARGEST_PAGE
from evalfleet.errors import ModelLoadError
from evalfleet.generation.v1 import model_pb2
from evalfleet.results import Model, ModelState

LOAD_TIMEOUT_SECONDS: Final = 600.0

ForeignProtocol = Literal["vllm-backend", "tensorrt-llm"]
"""Whose tensors the model of a foreign Triton takes and gives."""

_PROTOCOLS: Mapping[ForeignProtocol, model_pb2.ForeignProtocol.ValueType] = {
    "vllm-backend": model_pb2.FOREIGN_PROTOCOL_VLLM_BACKEND,
    "tensorrt-llm": model_pb2.FOREIGN_PROTOCOL_TENSORRT_LLM,
}


def add_request(
    checkpoint: str | os.PathLike[str] | None,
    *,
    adapter: str | os.PathLike[str] | None,
    hub: str | None,
    revision: str | None,
    model_id: str | None,
    dtype: str | None,
    engine: str | None,
) -> model_pb2.CreateModelRequest:
    """Ask for a checkpoint to be registered."""
    return model_pb2.CreateModelRequest(
        model_id=model_id,
        checkpoint_path="" if checkpoint is None else _location(checkpoint),
        adapter_path="" if adapter is None else _location(adapter),
        hub=None if hub is None else model_pb2.HubCheckpoint(repo_id=hub, revision=revision),
        dtype=dtype,
        engine=engine,
        request_id=str(uuid.uuid4()),
    )


def connect_request(
    target: str,
    model_name: str,
    *,
    protocol: ForeignProtocol,
    tokenizer: str | os.PathLike[str] | None,
    hub: str | None,
    hub_revision: str | None,
    model_version: str | None,
    revision: str | None,
    model_id: str | None,
) -> model_pb2.CreateModelRequest:
    """Ask for the model of a foreign Triton to be registered."""
    return model_pb2.CreateModelRequest(
        model_id=model_id,
        checkpoint_path="" if tokenizer is None else _location(tokenizer),
        hub=None if hub is None else model_pb2.HubCheckpoint(repo_id=hub, revision=hub_revision),
        foreign=model_pb2.ForeignTriton(
            target=target,
            model_name=model_name,
            model_version=model_version,
            protocol=_PROTOCOLS[protocol],
            revision=revision,
        ),
        request_id=str(uuid.uuid4()),
    )


def models_request(page_token: str) -> model_pb2.ListModelsRequest:
    """Ask for a page of models."""
    return model_pb2.ListModelsRequest(page_size=LARGEST_PAGE, page_token=page_token)


def is_still_loading(model: Model) -> bool:
    """Return whether a model is on its way.

    Raises:
        ModelLoadError: it could not be loaded.
    """
    if model.state is ModelState.FAILED:
        raise ModelLoadError(
            f"{model.name} could not be loaded: {model.failure}",
            reason="MODEL_FAILED",
            metadata={"model": model.name},
        )
    return model.state not in (ModelState.READY, ModelState.EVICTED)


def loading_error(model: Model, waited_seconds: float) -> ModelLoadError:
    """Return the error of a model that is not loaded in time."""
    return ModelLoadError(
        f"{model.name} is still loading after {waited_seconds:.0f} s; look again with `evalfleet models`",
        reason="MODEL_LOADING",
        metadata={"model": model.name},
    )


def _location(path: str | os.PathLike[str]) -> str:
    """Return a folder's absolute path; a URL stays as it is."""
    text = os.fspath(path)
    return text if "://" in text else os.path.abspath(text)
