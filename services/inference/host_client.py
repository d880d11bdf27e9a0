"""Loads, unloads and lists checkpoints at the checkpoint host."""

from services.inference.client import InferenceClient
from services.inference.contract import CausalLMArguments
from services.inference.errors import as_fleet_errors
from services.inference.host_contract import (
    CONTROL_KEY,
    HOST_MODEL,
    OPERATION,
    REPORT,
    HostKind,
    HostReport,
    Operation,
    key_sha256,
    parse_report,
)
from services.inference.repository import host_entry
from services.inference.tensors import text_array
from services.runtime.errors import InternalError


class CheckpointHostClient:
    """The operations of the checkpoint host. All raise FleetError; MODEL_NOT_LOADED when there is no host.

    Args:
        client: the connection; its model-control key is what operations bring.
        model: name of the host in the inference server.
        kind: which engine it has.
    """

    def __init__(self, client: InferenceClient, model: str = HOST_MODEL, kind: HostKind = "checkpoint_host") -> None:
        self._client = client
        self._model = model
        self._kind: HostKind = kind
        self._key = client.model_control_key

    async def start(self, *, timeout_seconds: float) -> None:
        """Load the host itself into the inference server; one that is loaded stays."""
        entry = host_entry(key_sha256(self._key), self._kind)
        await self._client.load_model(self._model, entry, timeout_seconds=timeout_seconds)

    async def stop(self, *, timeout_seconds: float) -> None:
        """Unload the host with all its checkpoints."""
        await self._client.unload_model(self._model, timeout_seconds=timeout_seconds)

    async def load(self, name: str, arguments: CausalLMArguments, *, timeout_seconds: float) -> HostReport:
        """Load a checkpoint and return when it takes requests; a name that is loaded keeps its first one."""
        return await self._ask(Operation("load", name, arguments), timeout_seconds)

    async def unload(self, name: str, *, timeout_seconds: float) -> HostReport:
        """Unload a checkpoint after its requests in flight; an unknown name is no error."""
        return await self._ask(Operation("unload", name), timeout_seconds)

    async def list(self, *, timeout_seconds: float) -> HostReport:
        """Return what is loaded."""
        return await self._ask(Operation("list"), timeout_seconds)

    async def _ask(self, operation: Operation, timeout_seconds: float) -> HostReport:
        inputs = {OPERATION: text_array(operation.to_json()), CONTROL_KEY: text_array(self._key)}
        outputs = await self._client.ask(self._model, inputs, timeout_seconds=timeout_seconds)
        try:
            with as_fleet_errors():
                return parse_report(outputs[REPORT].ravel()[0].decode())
        except (LookupError, ValueError, AttributeError) as error:
            raise InternalError("the checkpoint host's report cannot be read") from error
