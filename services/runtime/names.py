"""Suggest the valid name a caller probably meant."""

import difflib
from collections.abc import Iterable

_SIMILARITY_CUTOFF = 0.5


def nearest_names(name: str, candidates: Iterable[str], *, limit: int = 3) -> tuple[str, ...]:
    """Return up to ``limit`` candidates that look most like ``name``, best first; empty when none is close.

    Case is ignored when names are compared; candidates come back as they were spelled.
    """
    by_folded: dict[str, str] = {}
    for candidate in candidates:
        by_folded.setdefault(candidate.casefold(), candidate)
    folded = name.casefold()
    matches = difflib.get_close_matches(folded, by_folded, n=limit, cutoff=_SIMILARITY_CUTOFF)
    if not matches and folded:
        # A prefix such as "gsm" for "gsm8k_with_reasoning" is too short for the ratio, yet says what was meant.
        matches = sorted(key for key in by_folded if key.startswith(folded) or folded.startswith(key))[:limit]
    return tuple(by_folded[match] for match in matches)
