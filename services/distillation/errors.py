"""What can go wrong when a guard is distilled."""

from services.runtime.errors import FailedPreconditionError, InvalidArgumentError, StartupError


class LabelsFileError(FailedPreconditionError):
    """The file of a teacher's labels cannot be read or written."""

    default_reason = "LABELS_FILE_INVALID"


class TooFewLabelsError(FailedPreconditionError):
    """The teacher's labels do not suffice to train a student, or to say how good it is."""

    default_reason = "TOO_FEW_LABELS"


class PlanError(InvalidArgumentError):
    """The texts, or the number of labels, do not suffice for what is asked."""

    default_reason = "PLAN_INVALID"


class NotInstalledError(StartupError):
    """What a student is trained with is not installed."""

    default_reason = "STUDENT_NOT_INSTALLED"
