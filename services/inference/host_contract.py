"""The contract with the checkpoint host: one resident model whose process holds many checkpoints.

A request to compute names its checkpoint in the tensor ``checkpoint`` and is otherwise one of a causal language model
(contract.py). A request with the tensor ``operation`` loads, unloads or lists checkpoints and needs the model-control
key. Torch-free, and free of Triton's client.
"""

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, cast

from services.inference import contract
from services.inference.contract import CausalLMArguments
from services.inference.failures import InferenceFailure

HOST_MODEL: Final = "evalfleet-causal-lm"
"""Name under which the checkpoint host is loaded into the inference server."""

CHECKPOINT: Final = "checkpoint"
OPERATION: Final = "operation"
CONTROL_KEY: Final = "model_control_key"
REPORT: Final = "report"

OperationKind = Literal["load", "unload", "list"]
HostKind = Literal["checkpoint_host", "vllm_host"]
_KINDS: Final = ("load", "unload", "list")


@dataclass(frozen=True, slots=True)
class HostArguments:
    """What model.json tells the checkpoint host.

    Attributes:
        control_key_sha256: SHA-256 (hex) of the key that operations must bring. Only who has the server's
            model-control key can load the host, so the digest that it was loaded with can be trusted.
        torch_threads: CPU threads of all its engines together; None takes the inference host's default.
    """

    control_key_sha256: str
    torch_threads: int | None = None

    def allows(self, key: str) -> bool:
        """Return whether ``key`` is the one that operations must bring."""
        return hmac.compare_digest(key_sha256(key), self.control_key_sha256)


def key_sha256(key: str) -> str:
    """Return the digest of a model-control key."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Operation:
    """Something to be done with a checkpoint.

    Attributes:
        kind: ``load``, ``unload`` or ``list``.
        name: the checkpoint's name at the host; empty for ``list``.
        arguments: what to load; for ``load`` only.
    """

    kind: OperationKind
    name: str = ""
    arguments: CausalLMArguments | None = None

    def to_json(self) -> str:
        """Write the ``operation`` tensor."""
        body: dict[str, Any] = {"kind": self.kind, "name": self.name}
        if self.arguments is not None:
            body["arguments"] = asdict(self.arguments)
        return json.dumps(body)


def parse_operation(text: str) -> Operation:
    """Read the ``operation`` tensor.

    Raises:
        InferenceFailure: OPERATION_INVALID.
    """
    try:
        body = json.loads(text)
        kind, name, arguments = body["kind"], body["name"], body.get("arguments")
        is_valid = kind in _KINDS and isinstance(name, str) and (bool(name) or kind == "list")
        if not is_valid or (kind == "load") != (arguments is not None):
            raise ValueError(f"no operation {kind!r} of {name!r}")
        known = {field.name for field in fields(CausalLMArguments)}
        if arguments is not None and not known.issuperset(arguments):
            raise ValueError(f"unknown arguments {sorted(set(arguments) - known)}")
        return Operation(cast(OperationKind, kind), name, None if arguments is None else CausalLMArguments(**arguments))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise InferenceFailure(
            f"the operation cannot be read: {error}", reason="OPERATION_INVALID", field=OPERATION
        ) from error


@dataclass(frozen=True, slots=True)
class HostReport:
    """What a checkpoint host holds.

    Attributes:
        checkpoints: names of the checkpoints that take requests, sorted.
        memory_bytes: memory of the device that they live on: of the GPU, or of the machine (the container).
    """

    checkpoints: tuple[str, ...]
    memory_bytes: int

    def to_json(self) -> str:
        """Write the ``report`` tensor."""
        return json.dumps({"checkpoints": self.checkpoints, "memory_bytes": self.memory_bytes})


def parse_report(text: str) -> HostReport:
    """Read the ``report`` tensor."""
    body = json.loads(text)
    return HostReport(tuple(map(str, body["checkpoints"])), int(body["memory_bytes"]))


def host_config(kind: HostKind = "checkpoint_host") -> dict[str, Any]:
    """Triton's ModelConfig of a checkpoint host: a causal language model with the tensors above."""
    config = contract.causal_lm_config()
    extra = [
        {"name": name, "data_type": "TYPE_STRING", "dims": [1], "optional": True}
        for name in (CHECKPOINT, OPERATION, CONTROL_KEY)
    ]
    return {
        **config,
        "input": [*config["input"], *extra],
        "output": [*config["output"], {"name": REPORT, "data_type": "TYPE_STRING", "dims": [1]}],
        "parameters": {contract.ENGINE_PARAMETER: {"string_value": kind}},
    }
