"""The header of a safetensors file: read and checked in full before anything is allocated for its tensors.

Format: https://huggingface.co/docs/safetensors: 8 bytes with the header's length (little endian), the header as JSON,
then the tensors' bytes, each at the offsets that the header gives, without gaps.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.inference.failures import InferenceFailure

MAX_HEADER_BYTES: Final = 100_000_000
MAX_TENSORS: Final = 1_000_000
MAX_DIMENSIONS: Final = 8
_PREFIX_BYTES: Final = 8

DTYPE_BITS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    "F4": 4,
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies in its file.

    Attributes:
        dtype: its number type, in the format's words (``BF16``).
        shape: its dimensions.
        start: first byte, counted from the beginning of the file.
        end: the byte behind its last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def element_count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


Header = Mapping[str, TensorEntry]
"""The tensors of a file by name."""


def read_header(file: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        InferenceFailure: CHECKPOINT_CORRUPT.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(_PREFIX_BYTES)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == _PREFIX_BYTES else 0
        if not 2 <= header_bytes <= min(size - _PREFIX_BYTES, MAX_HEADER_BYTES):
            raise _corrupt(file, "is not a safetensors file or was cut short")
        text = stream.read(header_bytes)
    begin = _PREFIX_BYTES + header_bytes
    try:
        content: dict[str, Any] = json.loads(text)
        content.pop("__metadata__", None)
        header = {name: _entry(described, begin) for name, described in content.items()}
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise _corrupt(file, "has a damaged safetensors header") from error
    if len(header) > MAX_TENSORS:
        raise _corrupt(file, f"has {len(header)} tensors, more than {MAX_TENSORS}")
    end = _checked_end(file, header, begin)
    if size != end:
        raise _corrupt(file, f"has {size} bytes where its header promises {end}. Was it still being written?")
    return header


def _entry(described: Mapping[str, Any], begin: int) -> TensorEntry:
    shape, (start, end) = described["shape"], described["data_offsets"]
    if len(shape) > MAX_DIMENSIONS or not all(type(each) is int and each >= 0 for each in (*shape, start, end)):
        raise ValueError("negative, fractional or too many dimensions")
    entry = TensorEntry(described["dtype"], tuple(shape), begin + start, begin + end)
    if entry.element_count * DTYPE_BITS[entry.dtype] != 8 * (end - start):
        raise ValueError("the shape of a tensor does not fit its bytes")
    return entry


def _checked_end(file: Path, header: Header, begin: int) -> int:
    """Return where the last tensor ends, after checking that tensors neither overlap nor leave gaps."""
    at = begin
    for entry in sorted(header.values(), key=lambda each: (each.start, each.end)):
        if entry.start != at:
            raise _corrupt(file, "has tensors that overlap or leave gaps")
        at = entry.end
    return at


def _corrupt(file: Path, problem: str) -> InferenceFailure:
    return InferenceFailure(
        f"{file} {problem}",
        reason="CHECKPOINT_CORRUPT",
        code="FAILED_PRECONDITION",
        metadata={"path": str(file.parent)},
    )
