"""Between the contract's messages about models and the domain: what is registered, and what is shown of it."""

import re
import uuid
from collections.abc import Sequence

from evalfleet.generation.v1 import model_pb2
from google.protobuf import timestamp_pb2

from services.generation.foreign.target import TARGET_RULE, ForeignProtocol, ForeignTarget, is_target
from services.generation.models import DTYPES, ENGINES, MODEL_ID, MODEL_ID_RULE, ModelRecord, ModelState
from services.generation.registration import Registration
from services.generation.sources import Source
from services.generation.violations import Violations
from services.runtime.errors import nearest_names

_MODEL_PREFIX = "models/"
_TRITON_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_TRITON_NAME_RULE = "must be 1 to 128 of A-Z, a-z, 0-9, '_', '.' and '-', starting with a letter, digit or '_'"
_LONGEST_REVISION = 256

_PROTOCOLS: dict[int, ForeignProtocol] = {
    model_pb2.FOREIGN_PROTOCOL_VLLM_BACKEND: ForeignProtocol.VLLM_BACKEND,
    model_pb2.FOREIGN_PROTOCOL_TENSORRT_LLM: ForeignProtocol.TENSORRT_LLM,
}
_PROTOCOL_VALUES = {
    protocol: model_pb2.ForeignProtocol.Value(f"FOREIGN_PROTOCOL_{protocol.name}") for protocol in ForeignProtocol
}

_STATES = {
    ModelState.LOADING: model_pb2.MODEL_STATE_LOADING,
    ModelState.READY: model_pb2.MODEL_STATE_READY,
    ModelState.FAILED: model_pb2.MODEL_STATE_FAILED,
    ModelState.EVICTED: model_pb2.MODEL_STATE_EVICTED,
}


def registration(message: model_pb2.CreateModelRequest) -> Registration:
    """Check and read a request to register a checkpoint.

    Raises:
        InvalidArgumentError: lists every invalid field.
    """
    bad = Violations()
    model_id = message.model_id if message.HasField("model_id") else None
    bad.require(model_id is None or bool(MODEL_ID.fullmatch(model_id)), "model_id", f"must be {MODEL_ID_RULE}")
    has_hub = message.HasField("hub")
    bad.require(
        bool(message.checkpoint_path) != has_hub,
        "checkpoint_path",
        "must name the checkpoint's folder, or hub be given",
    )
    bad.require(not has_hub or bool(message.hub.repo_id), "hub.repo_id", "must name a repository")
    foreign = _foreign(message, bad) if message.HasField("foreign") else None
    dtype = message.dtype if message.HasField("dtype") else "auto"
    _require_one_of(DTYPES, dtype, "dtype", bad)
    engine = message.engine if message.HasField("engine") else "auto"
    _require_one_of(ENGINES, engine, "engine", bad)
    request_id = message.request_id if message.HasField("request_id") else None
    if request_id is not None:
        try:
            request_id = str(uuid.UUID(request_id))
        except ValueError:
            bad.add("request_id", "must be a UUID such as 3f2c8a52-7c1f-4d09-9a35-2f5f0f2f6c11")
    bad.raise_any()
    return Registration(
        message.checkpoint_path,
        model_id,
        dtype,
        request_id,
        engine,
        message.adapter_path,
        message.hub.repo_id,
        message.hub.revision,
        foreign,
    )


def _foreign(message: model_pb2.CreateModelRequest, bad: Violations) -> ForeignTarget:
    told = message.foreign
    bad.require(is_target(told.target), "foreign.target", f"must be {TARGET_RULE}")
    bad.require(bool(_TRITON_NAME.fullmatch(told.model_name)), "foreign.model_name", _TRITON_NAME_RULE)
    version = told.model_version if told.HasField("model_version") else ""
    is_number = version == "" or (version.isascii() and version.isdigit() and len(version) <= 18)
    bad.require(is_number, "foreign.model_version", "must be a number")
    protocol = _PROTOCOLS.get(told.protocol)
    bad.require(protocol is not None, "foreign.protocol", "must be VLLM_BACKEND or TENSORRT_LLM")
    bad.require(
        len(told.revision) <= _LONGEST_REVISION and told.revision.isprintable(),
        "foreign.revision",
        f"must have at most {_LONGEST_REVISION} printable characters",
    )
    for field in ("dtype", "engine"):
        bad.require(not message.HasField(field), field, "must be absent: the foreign Triton decides it")
    bad.require(not message.adapter_path, "adapter_path", "must be absent: the foreign Triton has its own weights")
    return ForeignTarget(
        told.target.casefold(),
        told.model_name,
        protocol or ForeignProtocol.VLLM_BACKEND,
        version,
        told.revision,
    )


def _foreign_message(target: ForeignTarget) -> model_pb2.ForeignTriton:
    return model_pb2.ForeignTriton(
        target=target.target,
        model_name=target.model_name,
        model_version=target.model_version or None,
        protocol=_PROTOCOL_VALUES[target.protocol],
        revision=target.revision or None,
    )


def _require_one_of(allowed: Sequence[str], value: str, field: str, bad: Violations) -> None:
    if value not in allowed:
        near = nearest_names(value, allowed)
        bad.add(field, f"must be one of {', '.join(allowed)}" + (f"; did you mean {near[0]!r}?" if near else ""))


def model_id_of(name: str) -> str:
    """Read the resource name of a model.

    Raises:
        InvalidArgumentError: it is none.
    """
    bad = Violations()
    model_id = read_model_id(name, "name", bad)
    bad.raise_any()
    return model_id


def read_model_id(name: str, field: str, bad: Violations) -> str:
    """Read the resource name of a model in a field of a request; what is wrong is added to ``bad``."""
    model_id = name.removeprefix(_MODEL_PREFIX)
    is_name = name.startswith(_MODEL_PREFIX) and model_id and "/" not in model_id
    bad.require(bool(is_name), field, f"must look like models/{{model}}, not {name[:80]!r}")
    return model_id


def model_message(record: ModelRecord) -> model_pb2.Model:
    """Write a model."""
    created = timestamp_pb2.Timestamp()
    created.FromDatetime(record.create_time)
    used = timestamp_pb2.Timestamp()
    used.FromDatetime(record.last_used)
    source = Source.of(record)
    hub = model_pb2.HubCheckpoint(repo_id=source.hub_repo_id, revision=source.hub_revision)
    return model_pb2.Model(
        name=_MODEL_PREFIX + record.model_id,
        checkpoint_path=source.checkpoint_path,
        adapter_path=source.adapter_path,
        hub=hub if source.hub_repo_id else None,
        digest=record.digest,
        base_digest=record.base_digest,
        lineage_digest=record.lineage_digest,
        state=_STATES[record.state],
        failure=record.failure,
        architecture=record.architecture,
        dtype=record.dtype,
        context_tokens=record.context_tokens,
        weight_bytes=record.weight_bytes,
        create_time=created,
        engine=record.engine,
        last_use_time=used,
        foreign=None if (foreign := record.foreign) is None else _foreign_message(foreign),
    )
