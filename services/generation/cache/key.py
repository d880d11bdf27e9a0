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
_PARTS: Final = tuple((name, name in ("system_prompt", "prompt", "continuations", "seed")) for name in PART_NAMES)
"""Each part, and whether it differs from request to request; the digests of those that don't are worth remembering."""
_PROMPT: Final = PART_NAMES.index("prompt")
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
    return _key(
        "sample",
        model,
        system,
        turns,
        truncation=request.truncate,
        continuations=None,
        max_tokens=sampling.max_tokens,
        temperature=float(sampling.temperature),
        top_p=float(sampling.top_p),
        top_k=sampling.top_k,
        stop=sampling.stop,
        seed=None if is_greedy else sampling.seed,
        sample_index=None if is_greedy else index,
        day=_day(model, request.prompt),
    )


def scores_key(model: ModelIdentity, request: ScoringRequest) -> AnswerKey:
    """Return the key of the scores of all continuations of one context."""
    system, turns = _split(request.context)
    return _key(
        "scores",
        model,
        system,
        turns,
        truncation=request.truncate,
        continuations=request.continuations,
        day=_day(model, request.context),
    )


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


def _key(kind: str, model: ModelIdentity, system: Encodable, turns: Encodable, **values: Encodable) -> AnswerKey:
    parts: dict[str, Encodable] = {
        "kind": kind,
        "model": model.digest,
        "dtype": model.dtype,
        "engine": model.engine,
        "engine_revision": model.engine_revision,
        "system_prompt": system,
        "prompt": turns,
        **values,
    }
    digests = [(_digest if changes else _remembered_digest)(parts.get(name)) for name, changes in _PARTS]
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


# Values of different types can be equal and are encoded differently: 1, 1.0 and True.
_remembered_digest = lru_cache(maxsize=1024, typed=True)(_digest)


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
