"""Which other runtimes may compute a guard: those whose loss of quality was measured and is within a stated bound."""

from pathlib import Path
from typing import Final

from services.inference.checkpoints import read_json
from services.inference.contract import VariantName
from services.inference.errors import as_fleet_errors
from services.safety.errors import GuardFileError

VARIANTS_FILE: Final = "variants.json"


def check_promoted(folder: Path, variant: VariantName, weights_digest: str) -> None:
    """Make sure that a guard's folder holds a measurement of this variant, of these weights, within its bound.

    Raises:
        GuardFileError: GUARD_VARIANT_NOT_PROMOTED.
    """
    if variant == "torch":
        return
    with as_fleet_errors():
        content = read_json(folder / VARIANTS_FILE, required=False)
    promoted = content.get("promoted")
    if content.get("weights_digest") != weights_digest or not isinstance(promoted, dict) or variant not in promoted:
        known = ", ".join(sorted(promoted)) if isinstance(promoted, dict) and promoted else "none"
        raise GuardFileError(
            f"{folder / VARIANTS_FILE} promotes no variant {variant!r} of these weights (promoted: {known}); "
            "measure it with python -m examples.guard_head.variants, or set EVALFLEET_GUARD_VARIANT=torch",
            reason="GUARD_VARIANT_NOT_PROMOTED",
            metadata={"variant": variant},
        )
