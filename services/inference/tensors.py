"""numpy arrays to and from the KServe v2 messages of Triton's gRPC service."""

import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2 as kserve

Array = np.ndarray[Any, np.dtype[Any]]

_NUMPY_BY_DATATYPE: Final[dict[str, type[Any]]] = {
    "BOOL": np.bool_,
    "UINT32": np.uint32,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "FP64": np.float64,
}
_CODES: Final = {"BOOL": "?", "UINT32": "I", "INT32": "i", "INT64": "q", "UINT64": "Q", "FP32": "f", "FP64": "d"}
_FORMATS: Final = {datatype: struct.Struct(f"<{code}") for datatype, code in _CODES.items()}
_DATATYPE_BY_NUMPY: Final[dict[str, str]] = {np.dtype(v).str: k for k, v in _NUMPY_BY_DATATYPE.items()}


def text_array(*texts: str) -> Array:
    """Build a one-dimensional array of UTF-8 texts."""
    return np.array([each.encode("utf-8") for each in texts], dtype=np.object_)


def flag_array(value: bool) -> Array:
    """Build a BOOL tensor of shape [1]."""
    return np.array([value], dtype=np.bool_)


def _pack(array: Array) -> tuple[str, bytes]:
    if array.dtype == np.object_:
        return "BYTES", b"".join(struct.pack("<I", len(each)) + each for each in array.ravel())
    datatype = _DATATYPE_BY_NUMPY[array.dtype.str]
    return datatype, np.ascontiguousarray(array).tobytes()


def _unpack(datatype: str, shape: tuple[int, ...], raw: bytes) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(raw, dtype=_NUMPY_BY_DATATYPE[datatype]).reshape(shape)
    items: list[bytes] = []
    offset = 0
    while offset < len(raw):
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        items.append(raw[offset : offset + length])
        offset += length
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array.reshape(shape)


def write_request(model: str, request_id: str, inputs: Mapping[str, Array]) -> kserve.ModelInferRequest:
    """Build an inference request; a decoupled model then marks its end with an empty final response."""
    request = kserve.ModelInferRequest(model_name=model, id=request_id)
    add_inputs(request, inputs)
    return request


def add_inputs(request: kserve.ModelInferRequest, inputs: Mapping[str, Array]) -> None:
    """Add input tensors to a request."""
    for name, array in inputs.items():
        datatype, raw = _pack(array)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw)


def add_text(request: kserve.ModelInferRequest, name: str, text: str) -> None:
    """Add an input tensor of one text to a request."""
    content = text.encode("utf-8")
    request.inputs.add(name=name, datatype="BYTES", shape=(1,))
    request.raw_input_contents.append(len(content).to_bytes(4, "little") + content)


def read_request(request: kserve.ModelInferRequest) -> dict[str, Array]:
    """Read the input tensors of a request."""
    return {
        tensor.name: _unpack(tensor.datatype, tuple(tensor.shape), raw)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def write_response(model: str, request_id: str, outputs: Mapping[str, Array]) -> kserve.ModelInferResponse:
    """Build an inference response."""
    response = kserve.ModelInferResponse(model_name=model, model_version="1", id=request_id)
    for name, array in outputs.items():
        datatype, raw = _pack(array)
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(raw)
    return response


def first_values(response: kserve.ModelInferResponse) -> dict[str, Any]:
    """Read the first element of every output tensor: a number, a bool, the bytes of a text, or None if it has none."""
    values: dict[str, Any] = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if not raw:
            values[tensor.name] = None
        elif tensor.datatype == "BYTES":
            values[tensor.name] = raw[4 : 4 + int.from_bytes(raw[:4], "little")]
        else:
            (values[tensor.name],) = _FORMATS[tensor.datatype].unpack_from(raw)
    return values


def read_response(response: kserve.ModelInferResponse) -> dict[str, Array]:
    """Read the output tensors of a response."""
    return {
        tensor.name: _unpack(tensor.datatype, tuple(tensor.shape), raw)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
