"""The checkpoints that a fleet has registered, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

import asyncio
import os
from collections.abc import Callable

from evalfleet import decoding
from evalfleet import model_messages as messages
from evalfleet.aio.connections import AsyncConnection
from evalfleet.generation.v1 import model_pb2, model_pb2_grpc
from evalfleet.model_messages import LOAD_TIMEOUT_SECONDS, ForeignProtocol
from evalfleet.names import full_name
from evalfleet.results import Model

_POLL_SECONDS = 0.5


class AsyncModels:
    """The generation service's models: ``evalfleet.models.Models``, to be awaited."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> model_pb2_grpc.ModelServiceAsyncStub:
        return self._connection.stub(model_pb2_grpc.ModelServiceStub)

    async def list(self) -> tuple[Model, ...]:
        """List the registered models, ordered by name."""
        pages = self._connection.pages(self._stub.ListModels, messages.models_request)
        return tuple([decoding.model(each) async for page in pages for each in page.models])

    async def get(self, name: str) -> Model:
        """Read one model."""
        request = model_pb2.GetModelRequest(name=full_name("models", name))
        return decoding.model((await self._connection.call(self._stub.GetModel, request, may_be_hedged=True)).model)

    async def add(
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
        """Register a checkpoint folder and wait until the model is ready; the arguments are those of ``Models.add``.

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
        return await self._registered(request, timeout_seconds, on_state)

    async def connect(
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
        """Register a model that somebody else deployed in a Triton; the arguments are those of ``Models.connect``.

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
        return await self._registered(request, timeout_seconds, on_state)

    async def _registered(
        self,
        request: model_pb2.CreateModelRequest,
        timeout_seconds: float,
        on_state: Callable[[Model], None] | None,
    ) -> Model:
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + timeout_seconds
        # It answers within seconds once the checkpoint is hashed, but that may be many gigabytes.
        answer = await self._connection.call(self._stub.CreateModel, request, timeout_seconds=timeout_seconds)
        model = decoding.model(answer.model)
        while messages.is_still_loading(model):
            if on_state:
                on_state(model)
            if clock() > give_up_at:
                raise messages.loading_error(model, timeout_seconds)
            await asyncio.sleep(_POLL_SECONDS)
            model = await self.get(model.name)
        return model

    async def remove(self, name: str) -> None:
        """Unload a model and forget it; its files are left alone."""
        request = model_pb2.DeleteModelRequest(name=full_name("models", name))
        # Repeated, it would answer NOT_FOUND.
        await self._connection.call(self._stub.DeleteModel, request, is_idempotent=False)
