"""How policies name hazards: MLCommons AILuminate codes, or a guard's own codes behind their taxonomy."""

from typing import Final

from services.runtime.errors import nearest_names
from services.safety.judgement import HazardCategory

AILUMINATE_CODES: Final = (
    "cse",
    "dfm",
    "hte",
    "ipv",
    "iwp",
    "ncr",
    "prv",
    "spc",
    "spc_ele",
    "spc_fin",
    "spc_hlt",
    "src",
    "ssh",
    "sxc",
    "sxc_prn",
    "vcr",
)
"""The hazards of MLCommons AILuminate 1.1 and their subcategories, which are named ``{hazard}_{subcategory}``."""

_SEPARATOR: Final = "/"


def matches(code: str, category: HazardCategory) -> bool:
    """Return whether a policy's hazard covers a guard's category.

    An AILuminate hazard covers its subcategories. A subcategory also covers a category that is mapped no finer than
    its hazard: the guard cannot tell them apart, and a policy fails closed.

    Args:
        code: as a policy names it.
        category: of a guard.
    """
    if _SEPARATOR in code:
        return code == native_code(category)
    mapped = category.ailuminate_code
    return bool(mapped) and (code == mapped or code == _hazard_of(mapped) or _hazard_of(code) == mapped)


def native_code(category: HazardCategory) -> str:
    """Return a guard's own code as a policy names it: ``evalfleet-hazards/drugs``."""
    return f"{category.taxonomy}{_SEPARATOR}{category.code}"


def problem_of_code(code: str) -> str:
    """Return what is wrong with the form of a hazard's code, and the nearest code; empty if nothing is."""
    taxonomy, separator, own = code.partition(_SEPARATOR)
    if separator:
        return "" if taxonomy and own else "must be an AILuminate code, or TAXONOMY/CODE of a guard"
    if code in AILUMINATE_CODES:
        return ""
    near = nearest_names(code, AILUMINATE_CODES)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(AILUMINATE_CODES)}"
    return f"{code!r} is no AILuminate code; {hint} A guard's own code is written TAXONOMY/CODE"


def _hazard_of(code: str) -> str:
    return code.partition("_")[0]
