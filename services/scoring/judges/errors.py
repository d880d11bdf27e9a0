"""What can go wrong when a judge is asked."""

from services.runtime.errors import FailedPreconditionError, FleetError, NotFoundError


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
    told = error.again()
    told.message = f"judge {model}: {error.message}"
    told.reason = reason
    told.metadata = {**error.metadata, "judge": model}
    told.field_violations = ()  # of a request that our caller did not make
    return told
