"""What identifies an answer: every input that could change it, written down in one unambiguous way.

A key is SHA-256 over the digests of its parts, in the order of ``PART_NAMES``. Each part is encoded with a type and a
length, so that no two different requests can have the same bytes. Whatever is added to a request that could change its
answer must become a part, and a change of the encoding must change ``_VERSION``.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from services.generation.requests import GenerationRequest, Prompt, Sampling, ScoringRequest
from services.runtime.cache.store import KEY_BYTES

PART_NAMES: Final = (
    "kind",
    "model",
    "dtype",
    "engine",
    "engine_revision",
    "system_prompt",
    "prompt",
    "truncation",
    "continuations",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "seed",
    "sample_index",
    "day",
)
_SYSTEM_PROMPT: Final = PART_NAMES.index("system_prompt")
_PROMPT: Final = PART_NAMES.index("prompt")
_CONTINUATIONS: Final = PART_NAMES.index("continuations")
_SEED: Final = PART_NAMES.index("seed")
_MODEL: Final = PART_NAMES.index("model")
_VERSION: Final = b"evalfleet/answer-key/2\0"
_SHOWN_BYTES: Final = 8
"""Of each part's digest, what is kept to explain misses."""

Encodable = None | bool | int | float | str | Sequence["Encodable"]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What computes an answer.

    Attributes:
        digest: of weights, adapter, configuration, tokenizer, chat template and dtype.
        dtype: number type of the computation; also in the digest, named here for explanations.
        engine: ``transformers``, ``vllm`` or another.
        engine_revision: digest of the engine's code and of what the operator adds.
        day: that its chat template prints into conversations; ``None`` if it prints none.
    """

    digest: str
    dtype: str
    engine: str
    engine_revision: str
    day: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """The key of one sample, or of the scores of one request.

    Attributes:
        digest: what the answer is stored under.
        parts: digests of the parts, shortened, in the order of ``PART_NAMES``.
        prompt_group: short digest of the prompt, conversation and continuations alone.
        model_group: short digest of the model alone.
    """

    digest: bytes
    parts: bytes
    prompt_group: bytes
    model_group: bytes

    @property
    def groups(self) -> tuple[bytes, bytes]:
        """The groups in which the nearest entry is looked for."""
        return self.prompt_group, self.model_group


def is_cacheable(sampling: Sampling) -> bool:
    """Whether the same request has the same answer: greedy, or sampled with a seed."""
    return sampling.temperature == 0 or sampling.seed is not None


def sample_key(model: ModelIdentity, request: GenerationRequest, index: int) -> AnswerKey:
    """Return the key of sample ``index`` of a request for which ``is_cacheable`` holds.

    A greedy answer has neither seed nor index: whatever they are, it is the same.
    """
    sampling = request.sampling
    is_greedy = sampling.temperature == 0
    system, turns = _split(request.prompt)
    steady = _steady_digests(
        "sample",
        model,
        _day(model, request.prompt),
        request.truncate,
        sampling.max_tokens,
        float(sampling.temperature),
        float(sampling.top_p),
        sampling.top_k,
        sampling.stop,
        None if is_greedy else index,
    )
    return _key(steady, system, turns, continuations=None, seed=None if is_greedy else sampling.seed)


def scores_key(model: ModelIdentity, request: ScoringRequest) -> AnswerKey:
    """Return the key of the scores of all continuations of one context."""
    system, turns = _split(request.context)
    steady = _steady_digests("scores", model, _day(model, request.context), request.truncate)
    return _key(steady, system, turns, continuations=request.continuations, seed=None)


def differing_parts(one: bytes, other: bytes) -> tuple[str, ...]:
    """Return the names of the parts in which two keys differ; all of them if another version made one."""
    if len(one) != len(other) or len(one) != len(PART_NAMES) * _SHOWN_BYTES:
        return PART_NAMES
    return tuple(
        name
        for index, name in enumerate(PART_NAMES)
        if one[index * _SHOWN_BYTES : (index + 1) * _SHOWN_BYTES]
        != other[index * _SHOWN_BYTES : (index + 1) * _SHOWN_BYTES]
    )


# Values of different types can be equal and are encoded differently: 1, 1.0 and True.
@lru_cache(maxsize=1024, typed=True)
def _steady_digests(
    kind: str,
    model: ModelIdentity,
    day: str | None,
    truncation: bool,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    stop: tuple[str, ...] | None = None,
    sample_index: int | None = None,
) -> tuple[bytes, ...]:
    """Return the digests of all parts, in the order of ``PART_NAMES``, for requests that differ in four of them only.

    Those four (system prompt, prompt, continuations, seed) are there as parts that have no value.
    """
    parts: dict[str, Encodable] = {
        "kind": kind,
        "model": model.digest,
        "dtype": model.dtype,
        "engine": model.engine,
        "engine_revision": model.engine_revision,
        "truncation": truncation,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": stop,
        "sample_index": sample_index,
        "day": day,
    }
    return tuple(_digest(parts.get(name)) for name in PART_NAMES)


def _key(
    steady: tuple[bytes, ...], system: Encodable, turns: Encodable, *, continuations: Encodable, seed: int | None
) -> AnswerKey:
    digests = list(steady)
    digests[_PROMPT] = _digest(turns)
    for part, value in ((_SYSTEM_PROMPT, system), (_CONTINUATIONS, continuations), (_SEED, seed)):
        if value is not None:
            digests[part] = _digest(value)
    whole = hashlib.sha256(_VERSION + b"".join(digests)).digest()
    assert len(whole) == KEY_BYTES
    return AnswerKey(
        digest=whole,
        parts=b"".join([digest[:_SHOWN_BYTES] for digest in digests]),
        prompt_group=b"p" + digests[_PROMPT][:_SHOWN_BYTES],
        model_group=b"m" + digests[_MODEL][:_SHOWN_BYTES],
    )


def _digest(value: Encodable) -> bytes:
    return hashlib.sha256(_encoded(value)).digest()


def _day(model: ModelIdentity, prompt: Prompt) -> str | None:
    """Return the day that a prompt contains; a text is rendered by no template."""
    return None if isinstance(prompt, str) else model.day


def _split(prompt: Prompt) -> tuple[Encodable, Encodable]:
    """Part the first turn, if it is the system's, from the others; a text that is no conversation has none."""
    if isinstance(prompt, str):
        return None, prompt
    count = 1 if prompt and prompt[0].role == "system" else 0
    return [turn.content for turn in prompt[:count]], [(turn.role, turn.content) for turn in prompt[count:]]


def _encoded(value: Encodable) -> bytes:
    match value:
        case None:
            return b"n"
        case bool():
            return b"b1" if value else b"b0"
        case int():
            return _framed(b"i", str(value).encode())
        case float():
            # Adding zero turns -0.0, which samples like 0.0, into it.
            return _framed(b"f", struct.pack(">d", value + 0.0))
        case str():
            return _framed(b"s", value.encode("utf-8", "surrogatepass"))
        case _:
            return _framed(b"l", b"".join(_encoded(each) for each in value))


def _framed(kind: bytes, content: bytes) -> bytes:
    return kind + len(content).to_bytes(8, "big") + content
