"""Sampling parameters with vLLM's names, defaults and meaning; checked before anything runs."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from services.inference.failures import InferenceFailure
from services.runtime.names import nearest_names

MAX_STOP_STRINGS: Final = 64
MAX_STOP_STRING_CHARACTERS: Final = 1024
MAX_OUTPUT_TOKENS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How to choose tokens and when to stop.

    Attributes:
        max_tokens: upper bound on generated tokens; the context window may end generation earlier.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: keep the smallest set of tokens whose probability reaches it; 1 keeps all.
        top_k: keep the k most probable tokens; 0 or -1 keeps all.
        min_p: drop tokens less probable than ``min_p`` times the most probable one; 0 keeps all.
        min_tokens: no stop of any kind before so many tokens.
        seed: makes sampling reproducible, whatever else is in the batch; None draws fresh entropy.
        stop: texts that end generation.
        stop_token_ids: token ids that end generation, beside the checkpoint's own end-of-sequence tokens.
        include_stop_str_in_output: leave the stop text in the output.
        ignore_eos: go on after an end-of-sequence token.
        skip_special_tokens: leave special tokens out of the text.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    min_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True

    def to_json(self) -> str:
        """Write the ``sampling_parameters`` tensor: only what differs from vLLM's defaults, and max_tokens."""
        defaults = SamplingParameters()
        values = {k: v for k, v in asdict(self).items() if k == "max_tokens" or v != getattr(defaults, k)}
        return json.dumps(values, ensure_ascii=False)


def _refuse(field: str, message: str) -> InferenceFailure:
    return InferenceFailure(
        f"sampling parameter {field!r} {message}",
        reason="INVALID_SAMPLING_PARAMETERS",
        metadata={"parameter": field},
        field=f"sampling_parameters.{field}",
    )


_INTEGER_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "max_tokens": (1, MAX_OUTPUT_TOKENS),
    "min_tokens": (0, MAX_OUTPUT_TOKENS),
    "top_k": (-1, 1 << 31),
    "seed": (-(1 << 63), (1 << 63) - 1),
}
_REAL_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
}
_FLAGS: Final = ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens")


def check_sampling_parameters(sampling: SamplingParameters) -> SamplingParameters:
    """Return ``sampling`` if every value has its type and lies within its bounds.

    Raises:
        InferenceFailure: INVALID_SAMPLING_PARAMETERS, naming the parameter.
    """
    for name, (low, high) in _INTEGER_BOUNDS.items():
        value = getattr(sampling, name)
        if value is None and name == "seed":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _refuse(name, f"must be an integer from {low} to {high}, not {value!r}")
    for name, (least, most) in _REAL_BOUNDS.items():
        value = getattr(sampling, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Only of a float, because an integer may be too large to be made one.
        if not is_number or (isinstance(value, float) and not math.isfinite(value)):
            raise _refuse(name, f"must be a finite number, not {value!r}")
        if not least <= value <= most or (name == "top_p" and value == 0):
            raise _refuse(name, f"must lie between {least} and {most}, not {value!r}")
    for name in _FLAGS:
        if not isinstance(getattr(sampling, name), bool):
            raise _refuse(name, f"must be true or false, not {getattr(sampling, name)!r}")
    if sampling.min_tokens > sampling.max_tokens:
        raise _refuse("min_tokens", f"is {sampling.min_tokens} but max_tokens is {sampling.max_tokens}")
    _check_stops(sampling)
    return sampling


def _check_stops(sampling: SamplingParameters) -> None:
    if len(sampling.stop) > MAX_STOP_STRINGS or len(sampling.stop_token_ids) > MAX_STOP_STRINGS:
        raise _refuse("stop", f"lists more than {MAX_STOP_STRINGS} entries")
    for text in sampling.stop:
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_STRING_CHARACTERS:
            raise _refuse("stop", f"must hold texts of 1 to {MAX_STOP_STRING_CHARACTERS} characters")
    for token_id in sampling.stop_token_ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise _refuse("stop_token_ids", f"must hold token ids, not {token_id!r}")


def parse_sampling_parameters(text: str) -> SamplingParameters:
    """Read and check the ``sampling_parameters`` tensor; an empty text gives vLLM's defaults.

    Raises:
        InferenceFailure: INVALID_SAMPLING_PARAMETERS for bad JSON, an unknown name or an absurd value.
    """
    try:
        values = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:  # also of integers with thousands of digits
        raise _refuse("*", f'is not valid JSON ({error}); send an object such as {{"max_tokens": 64}}') from error
    if not isinstance(values, dict):
        raise _refuse("*", 'must be a JSON object such as {"max_tokens": 64}')
    known = [field.name for field in fields(SamplingParameters)]
    for name in values:
        if name not in known:
            near = nearest_names(name, known)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise _refuse(name, f"is not supported by this engine; {hint}")
    return check_sampling_parameters(SamplingParameters(**_normalised(values)))


def _normalised(values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring JSON's shapes to the dataclass's: a single stop text, lists, and null for "the default"."""
    normal: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            continue
        if name in ("stop", "stop_token_ids"):
            items = [value] if isinstance(value, str | int) else value
            if not isinstance(items, list):
                raise _refuse(name, f"must be a list, not {value!r}")
            normal[name] = tuple(items)
        else:
            normal[name] = value
    return normal
