"""What can go wrong when a judge is asked."""

from collections.abc import Mapping

from services.runtime.errors import FailedPreconditionError, FleetError, NotFoundError
from services.scoring.usage import USAGE_PREFIX, Usage, usage_from_metadata, usage_metadata


class JudgeUnparsableError(FailedPreconditionError):
    """A judge's answer is no verdict. It is an error, never a guess; another greedy attempt would give the same."""

    default_reason = "JUDGE_UNPARSABLE"


class JudgeNotNamedError(NotFoundError):
    """Neither the request nor the service's settings name a judge, so nothing can be judged."""

    default_reason = "JUDGE_NOT_NAMED"

    def __init__(self) -> None:
        super().__init__(
            "no model is named as the judge: give the scorer's parameter judges, or set EVALFLEET_JUDGE_MODELS "
            "for the scoring service"
        )


def of_judge(error: FleetError, model: str) -> FleetError:
    """Return what a judge's model failed with as the judge's failure, so that nobody takes it for the judged model's.

    Class and wait stay, so that whoever waits out a model that is being loaded goes on doing so.
    """
    reason = error.reason if error.reason.startswith("JUDGE_") else f"JUDGE_{error.reason}"[:63]
    told = _copied(error)
    told.message = f"judge {model}: {error.message}"
    told.reason = reason
    told.metadata = {**error.metadata, "judge": model}
    told.field_violations = ()  # of a request that our caller did not make
    return told


def with_usage(error: FleetError, usage: Usage) -> FleetError:
    """Return the error with what was spent before it, for whoever books it: in its metadata."""
    return _with_metadata(error, {**error.metadata, **usage_metadata(usage)})


def without_usage(error: FleetError) -> FleetError:
    """Return the error for somebody who shares it: what was spent is booked to another."""
    return _with_metadata(
        error, {key: value for key, value in error.metadata.items() if not key.startswith(USAGE_PREFIX)}
    )


def usage_of(error: FleetError) -> Usage:
    """Return what ``with_usage`` put into an error."""
    return usage_from_metadata(error.metadata)


def _with_metadata(error: FleetError, metadata: Mapping[str, str]) -> FleetError:
    told = _copied(error)
    told.metadata = dict(metadata)
    return told


def _copied(error: FleetError) -> FleetError:
    # Not by copy.copy(), which calls the class: each has parameters of its own.
    copied = type(error).__new__(type(error), *error.args)
    copied.__dict__.update(error.__dict__)
    return copied
