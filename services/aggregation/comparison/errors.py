"""What can go wrong with a comparison."""

from collections.abc import Mapping, Sequence

from services.runtime.errors import FailedPreconditionError, ResourceExhaustedError


class RunsNotComparableError(FailedPreconditionError):
    """Items, prompts or judges of two runs are not the same."""

    default_reason = "RUNS_NOT_COMPARABLE"

    def __init__(self, base_run: str, variant_run: str, reasons: Mapping[str, Sequence[str]]) -> None:
        listed = "; ".join(f"{task}: {', '.join(found)}" for task, found in sorted(reasons.items())[:5])
        super().__init__(
            f"{base_run} and {variant_run} cannot be paired item by item: {listed}; run both with the same suite, or "
            "allow an unpaired comparison",
            metadata={
                "base_run": base_run,
                "variant_run": variant_run,
                "tasks": ",".join(sorted(reasons)[:20]),
                "reasons": ",".join(sorted({each for found in reasons.values() for each in found})),
            },
        )


class TooManyValuesError(ResourceExhaustedError):
    """More results than are held in memory at once."""

    default_reason = "TOO_MANY_VALUES"

    def __init__(self, values: int, limit: int) -> None:
        super().__init__(
            f"the runs have {values} values of this task, {limit} can be analysed at once; name fewer runs",
            metadata={"values": str(values), "limit": str(limit)},
        )
