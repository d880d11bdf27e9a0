"""The harness's `generation_kwargs` as a task's `generation`."""

from collections.abc import Mapping
from typing import Any

from evalfleet.plugins.lm_eval_tasks.refusals import Refusals

MOST_STOPS = 16
DEFAULT_MAX_TOKENS = 256
_MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = {*_MAX_TOKENS_NAMES, "until", "do_sample", "temperature", "top_p", "top_k"}


def generation(options: Mapping[str, Any] | None, separator: str, refusals: Refusals) -> dict[str, Any]:
    """Translate how text is generated; what has no equal is noted.

    Args:
        options: the harness's.
        separator: between examples; the stop string where the task says none.
        refusals: where what cannot be translated is noted.
    """
    said = {name: value for name, value in (options or {}).items() if value is not None}
    for name in sorted(set(said) - _KNOWN):
        refusals.add(f"generation_kwargs.{name}", "text is not generated with it here")
    until = said.get("until", [separator])
    stops = [str(each) for each in ([until] if isinstance(until, str) else until) if each]
    if len(stops) > MOST_STOPS:
        refusals.add("generation_kwargs.until", f"has {len(stops)} texts; {MOST_STOPS} are possible")
    temperature = float(said.get("temperature", 0.0))
    does_sample = said.get("do_sample", temperature > 0)
    if does_sample and "temperature" not in said:
        refusals.add("generation_kwargs.do_sample", "sampling needs a temperature")
    sampled: dict[str, Any] = {name: said[name] for name in ("top_p", "top_k") if name in said}
    return {
        "max_tokens": int(next((said[name] for name in _MAX_TOKENS_NAMES if name in said), DEFAULT_MAX_TOKENS)),
        **({"temperature": temperature, **sampled} if does_sample and temperature else {}),
        "stop": stops,
    }
