"""What requests for comparisons must be."""

from collections.abc import Sequence
from typing import Final

from services.aggregation.errors import InvalidLedgerRequestError

MOST_METRICS: Final = 1000


def checked_run(field: str, run: str) -> str:
    """Return a run's resource name.

    Raises:
        InvalidLedgerRequestError: it is none.
    """
    if not run.startswith("runs/") or run == "runs/":
        raise InvalidLedgerRequestError(field, f"is {run!r}; write runs/{{run}}")
    return run


def check_share(field: str, value: float) -> None:
    """Refuse what is no share below 1.

    Raises:
        InvalidLedgerRequestError: it is none.
    """
    if not 0 <= value < 1:
        raise InvalidLedgerRequestError(field, f"is {value}; it lies from 0 to below 1")


def check_names(field: str, names: Sequence[tuple[str, str]]) -> None:
    """Refuse too many metrics, and such as lack a name or stand there twice.

    Args:
        field: of the request; empty if it has the names itself.
        names: task and metric of each.

    Raises:
        InvalidLedgerRequestError: says what is wrong.
    """
    if len(names) > MOST_METRICS:
        raise InvalidLedgerRequestError(field, f"has {len(names)} entries; the limit is {MOST_METRICS}")
    for index, (task, metric) in enumerate(names):
        if not task or not metric:
            missing = "task" if not task else "metric"
            raise InvalidLedgerRequestError(f"{field}[{index}].{missing}" if field else missing, "is empty")
    if len(set(names)) < len(names):
        raise InvalidLedgerRequestError(field, "names a metric twice")
