"""What can go wrong in the generation domain."""

from services.runtime.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    UnavailableError,
)

CHECKPOINT_FIELD = "checkpoint_path"


class CheckpointPathError(InvalidArgumentError):
    """The path of a checkpoint lies outside the configured roots, or names no folder."""

    default_reason = "CHECKPOINT_PATH_INVALID"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: dict[str, str] | None = None,
        field: str = CHECKPOINT_FIELD,
    ) -> None:
        violation = FieldViolation(field, message)
        super().__init__(message, reason=reason, metadata=metadata, field_violations=(violation,))


class CheckpointError(FailedPreconditionError):
    """A checkpoint folder does not hold what the fleet can load; the message says how to mend it."""

    default_reason = "CHECKPOINT_INVALID"


class ModelExistsError(AlreadyExistsError):
    """The model id is taken by other content."""

    default_reason = "MODEL_EXISTS"


class ModelFailedError(FailedPreconditionError):
    """The model could not be loaded, so it answers nothing."""

    default_reason = "MODEL_LOAD_FAILED"


class ModelNotReadyError(UnavailableError):
    """The model is (again) being loaded; the same request will succeed later.

    Attributes:
        is_cut_short: the caller's own deadline ended the wait, before a model is waited for in vain.
    """

    default_reason = "MODEL_LOADING"

    def __init__(self, message: str, *, reason: str, model_id: str, is_cut_short: bool = False) -> None:
        super().__init__(message, reason=reason, metadata={"model": model_id}, retry_after_seconds=2.0)
        self.is_cut_short = is_cut_short


class ModelControlRefusedError(FailedPreconditionError):
    """The inference server does not let this service load and unload: a mistake of its operator, not of a caller."""

    default_reason = "MODEL_CONTROL_REFUSED"

    def __init__(self) -> None:
        super().__init__(
            "the inference server refuses the generation service's model-control key; EVALFLEET_TRITON_KEY_FILE must "
            "name the file that the inference server was started with"
        )


class ModelDeletedError(AbortedError):
    """The model was deleted while something waited for it."""

    default_reason = "MODEL_DELETED"


class ModelLostError(UnavailableError):
    """The inference server is gone, or lost the model: it has to be loaded again before the request is repeated.

    Attributes:
        engine_crashed: the server still lists the model, but its engine is dead and must be unloaded first.
    """

    default_reason = "INFERENCE_UNAVAILABLE"

    def __init__(self, message: str, *, reason: str | None = None, engine_crashed: bool = False) -> None:
        super().__init__(message, reason=reason, retry_after_seconds=1.0)
        self.engine_crashed = engine_crashed
