"""The checkpoints that a fleet has registered."""

import os
import time
from collections.abc import Callable

from evalfleet import decoding
from evalfleet import model_messages as messages
from evalfleet.connections import Connection
from evalfleet.generation.v1 import model_pb2, model_pb2_grpc
from evalfleet.model_messages import LOAD_TIMEOUT_SECONDS, ForeignProtocol
from evalfleet.names import full_name
from evalfleet.results import Model

__all__ = ["LOAD_TIMEOUT_SECONDS", "ForeignProtocol", "Models"]

_POLL_SECONDS = 0.5


class Models:
    """The generation service's models; names may be given as ``models/step-100`` or ``step-100``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> model_pb2_grpc.ModelServiceStub:
        return self._connection.stub(model_pb2_grpc.ModelServiceStub)

    def list(self) -> tuple[Model, ...]:
        """List the registered models, ordered by name."""
        pages = self._connection.pages(self._stub.ListModels, messages.models_request)
        return tuple(decoding.model(each) for page in pages for each in page.models)

    def get(self, name: str) -> Model:
        """Read one model."""
        request = model_pb2.GetModelRequest(name=full_name("models", name))
        return decoding.model(self._connection.call(self._stub.GetModel, request, may_be_hedged=True).model)

    def add(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        adapter: str | os.PathLike[str] | None = None,
        hub: str | None = None,
        revision: str | None = None,
        model_id: str | None = None,
        dtype: str | None = None,
        engine: str | None = None,
        timeout_seconds: float = LOAD_TIMEOUT_SECONDS,
        on_state: Callable[[Model], None] | None = None,
    ) -> Model:
        """Register a checkpoint folder and wait until the model is ready.

        Registering the same content again returns the existing model.

        Args:
            checkpoint: a folder with config.json, safetensors and a tokenizer, which the services see at the same path,
                or an fsspec URL of one (``s3://bucket/step-100``) that the service may read.
            adapter: folder or URL of a LoRA adapter in peft's format, which is merged into the checkpoint.
            hub: repository of a Hugging Face hub, in place of ``checkpoint``.
            revision: branch, tag or commit of the repository; default: main.
            model_id: id of the model; default: made from the folder's name and its content.
            dtype: number type of the computation, e.g. ``float32``; default: chosen by the service.
            engine: what computes its answers, ``transformers`` or ``vllm``; default: chosen by the service.
            timeout_seconds: longest wait for it to be loaded.
            on_state: called with the model while it is still loading, every time its state was read.

        Raises:
            ModelLoadError: it could not be loaded, or not in time.
        """
        request = messages.add_request(
            checkpoint,
            adapter=adapter,
            hub=hub,
            revision=revision,
            model_id=model_id,
            dtype=dtype,
            engine=engine,
        )
        return self._registered(request, timeout_seconds, on_state)

    def connect(
        self,
        target: str,
        model_name: str,
        *,
        protocol: ForeignProtocol,
        tokenizer: str | os.PathLike[str] | None = None,
        hub: str | None = None,
        hub_revision: str | None = None,
        model_version: str | None = None,
        revision: str | None = None,
        model_id: str | None = None,
        timeout_seconds: float = LOAD_TIMEOUT_SECONDS,
        on_state: Callable[[Model], None] | None = None,
    ) -> Model:
        """Register a model that somebody else deployed in a Triton, and wait until it was found in order.

        Args:
            target: ``host:port`` of that Triton's gRPC service; the fleet must allow it (EVALFLEET_FOREIGN_TRITONS).
            model_name: the model's name there.
            protocol: ``vllm-backend``, or ``tensorrt-llm`` for its ensemble and its BLS model.
            tokenizer: folder or URL of the model's tokenizer, with its chat template.
            hub: repository of a Hugging Face hub that holds the tokenizer, in place of ``tokenizer``.
            hub_revision: branch, tag or commit of the repository; default: main.
            model_version: the model's version there; default: the one that Triton chooses.
            revision: what its deployer calls the weights that it serves; without it, answers are not cached.
            model_id: id of the model here; default: made from its name there.
            timeout_seconds: longest wait.
            on_state: as for ``add``.

        Raises:
            ModelLoadError: it was not found in order in time.
        """
        request = messages.connect_request(
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
        return self._registered(request, timeout_seconds, on_state)

    def _registered(
        self,
        request: model_pb2.CreateModelRequest,
        timeout_seconds: float,
        on_state: Callable[[Model], None] | None,
    ) -> Model:
        give_up_at = time.monotonic() + timeout_seconds
        # It answers within seconds once the checkpoint is hashed, but that may be many gigabytes.
        answer = self._connection.call(self._stub.CreateModel, request, timeout_seconds=timeout_seconds)
        model = decoding.model(answer.model)
        while messages.is_still_loading(model):
            if on_state:
                on_state(model)
            if time.monotonic() > give_up_at:
                raise messages.loading_error(model, timeout_seconds)
            time.sleep(_POLL_SECONDS)
            model = self.get(model.name)
        return model

    def remove(self, name: str) -> None:
        """Unload a model and forget it; its files are left alone."""
        request = model_pb2.DeleteModelRequest(name=full_name("models", name))
        # Repeated, it would answer NOT_FOUND.
        self._connection.call(self._stub.DeleteModel, request, is_idempotent=False)
