"""How drawings are written into columns and read back."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.aggregation.drawings.records import DrawingSpec, PastResults, Question
from services.aggregation.sequential.questions import Direction, GateRule, PrecisionRule, RareRule

# Level 1: arrays of floating-point numbers hardly shrink at higher ones.
_LEVEL: Final = 1
_KINDS: Final[Mapping[str, type[GateRule] | type[PrecisionRule] | type[RareRule]]] = {
    "gate": GateRule,
    "precision": PrecisionRule,
    "rare_rate": RareRule,
}
_ZERO, _ONE, _MISSING = 0, 1, 2


def encode_texts(texts: Sequence[str]) -> bytes:
    """Write texts of any characters."""
    return zlib.compress(json.dumps(list(texts), ensure_ascii=False, separators=(",", ":")).encode(), _LEVEL)


def decode_texts(data: bytes) -> tuple[str, ...]:
    """Read what ``encode_texts`` wrote."""
    return tuple(json.loads(zlib.decompress(data)))


def encode_positions(positions: NDArray[np.int64]) -> bytes:
    """Write positions below 2^31."""
    return zlib.compress(positions.astype("<i4").tobytes(), _LEVEL)


def decode_positions(data: bytes) -> NDArray[np.int64]:
    """Read what ``encode_positions`` wrote."""
    return np.frombuffer(zlib.decompress(data), "<i4").astype(np.int64)


def encode_floats(values: NDArray[np.float32] | None) -> bytes | None:
    """Write 32-bit numbers, if there are any."""
    return None if values is None else zlib.compress(values.astype("<f4").tobytes(), _LEVEL)


def decode_floats(data: bytes | None) -> NDArray[np.float32] | None:
    """Read what ``encode_floats`` wrote."""
    return None if data is None else np.frombuffer(zlib.decompress(data), "<f4").astype(np.float32)


def _encode_scores(scores: NDArray[np.float64]) -> bytes:
    """Write a matrix of scores: a byte each if all are 0, 1 or missing, else eight."""
    missing = np.isnan(scores)
    if bool((missing | (scores == 0) | (scores == 1)).all()):
        codes = np.where(missing, _MISSING, np.where(scores == 1, _ONE, _ZERO)).astype(np.uint8)
        return b"b" + codes.tobytes()
    return b"d" + scores.astype("<f8").tobytes()


def _decode_scores(data: bytes, size: int) -> NDArray[np.float64]:
    """Read what ``_encode_scores`` wrote of ``size`` items a row."""
    if data[:1] == b"d":
        return np.frombuffer(data[1:], "<f8").astype(np.float64).reshape(-1, size)
    codes = np.frombuffer(data[1:], np.uint8).reshape(-1, size)
    return np.where(codes == _MISSING, np.nan, codes.astype(np.float64))


def encode_history(past: PastResults | None) -> bytes | None:
    """Write the scores of the past, if there are any; what was predicted is kept to 32 bits."""
    if past is None:
        return None
    predicted = past.predicted if past.predicted is not None else np.full(past.scores.shape, np.nan)
    rows = np.flatnonzero(np.isfinite(predicted).any(axis=1))
    header = {"is_sequence": past.is_sequence, "predicted_rows": rows.tolist()}
    parts = (json.dumps(header).encode(), _encode_scores(past.scores), predicted[rows].astype("<f4").tobytes())
    return zlib.compress(b"".join(len(part).to_bytes(8, "big") + part for part in parts), _LEVEL)


def decode_history(data: bytes | None, runs: tuple[str, ...], size: int) -> PastResults | None:
    """Read what ``encode_history`` wrote of ``size`` items a run."""
    if data is None:
        return None
    raw, parts = zlib.decompress(data), []
    while raw:
        end = 8 + int.from_bytes(raw[:8], "big")
        parts.append(raw[8:end])
        raw = raw[end:]
    header, scores = json.loads(parts[0]), _decode_scores(parts[1], size)
    predicted = None
    if header["predicted_rows"]:
        predicted = np.full(scores.shape, np.nan)
        predicted[header["predicted_rows"]] = np.frombuffer(parts[2], "<f4").reshape(-1, size)
    return PastResults(runs, scores, predicted, is_sequence=header["is_sequence"])


def encode_spec(spec: DrawingSpec) -> str:
    """Write a spec so that equal ones are equal texts."""
    fields = asdict(spec) | {"questions": [_encoded(each) for each in spec.questions]}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def decode_spec(text: str) -> DrawingSpec:
    """Read what ``encode_spec`` wrote."""
    fields: dict[str, Any] = json.loads(text)
    fields["questions"] = tuple(_decoded(each) for each in fields["questions"])
    fields["history_runs"] = tuple(fields["history_runs"])
    return DrawingSpec(**fields)


def _encoded(question: Question) -> dict[str, Any]:
    kind = next(name for name, each in _KINDS.items() if type(question) is each)
    fields = asdict(question)
    if isinstance(question, GateRule):
        fields["direction"] = question.direction.name
    return {"kind": kind, **fields}


def _decoded(fields: dict[str, Any]) -> Question:
    kind = _KINDS[fields.pop("kind")]
    if kind is GateRule:
        fields["direction"] = Direction[fields["direction"]]
    return kind(**fields)
