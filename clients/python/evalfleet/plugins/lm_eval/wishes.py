"""What a task of the harness says about generation, as the fleet's sampling parameters."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from evalfleet.errors import InvalidArgumentError
from evalfleet.generation.v1 import generation_pb2

DEFAULT_MAX_TOKENS = 256
# Of several, the first counts, as in the harness.
_MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = {*_MAX_TOKENS_NAMES, "until", "do_sample", "temperature", "top_p", "top_k", "seed"}


@dataclass(frozen=True, slots=True)
class Wishes:
    """How text is generated; greedy where the temperature is 0."""

    stop: tuple[str, ...]
    max_tokens: int
    temperature: float
    top_p: float | None
    top_k: int | None
    seed: int | None

    @classmethod
    def read(cls, options: Mapping[str, object], *, max_tokens: int = DEFAULT_MAX_TOKENS) -> "Wishes":
        """Read a task's ``generation_kwargs``.

        Without ``do_sample: true`` and without a temperature answers are greedy, and what shapes a sample is ignored,
        as in the harness.

        Args:
            options: by the harness's names.
            max_tokens: where they do not say.

        Raises:
            InvalidArgumentError: OPTION_NOT_OFFERED: one of them is none that the fleet has.
        """
        foreign = sorted(name for name, value in options.items() if name not in _KNOWN and value is not None)
        if foreign:
            raise InvalidArgumentError(
                f"generation_kwargs: the fleet has no {foreign[0]!r}; it has {', '.join(sorted(_KNOWN))}",
                reason="OPTION_NOT_OFFERED",
                metadata={"option": foreign[0]},
            )
        said = {name: value for name, value in options.items() if value is not None}
        until = said.get("until", ())
        stops = (until,) if isinstance(until, str) else until
        limit = next((said[name] for name in _MAX_TOKENS_NAMES if name in said), max_tokens)
        does_sample = said.get("do_sample", _number(said, "temperature", 0.0) > 0)
        # Sampling without a temperature is at 1, which is what transformers does.
        temperature = _number(said, "temperature", 1.0) if does_sample else 0.0
        return cls(
            stop=tuple(str(each) for each in stops if each) if isinstance(stops, (tuple, list)) else (),
            max_tokens=int(str(limit)),
            temperature=temperature,
            top_p=_number(said, "top_p", 1.0) if temperature and "top_p" in said else None,
            top_k=int(_number(said, "top_k", 0)) if temperature and "top_k" in said else None,
            seed=int(_number(said, "seed", 0)) if temperature and "seed" in said else None,
        )

    def of_part(self, part: int) -> "Wishes":
        """Return the wishes of a further request for the same prompt: with its seed it would answer the same again."""
        if self.seed is None or part == 0:
            return self
        digest = hashlib.sha256(f"evalfleet/lm-eval-part/1:{self.seed}:{part}".encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:8], "big") >> 1)

    def parameters(self) -> generation_pb2.SamplingParameters:
        """Translate."""
        return generation_pb2.SamplingParameters(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop,
            seed=self.seed,
        )


def _number(options: Mapping[str, object], name: str, default: float) -> float:
    return float(str(options.get(name, default)))
