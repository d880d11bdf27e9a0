"""What can go wrong with models of foreign Tritons."""

from collections.abc import Mapping, Sequence

from services.runtime.errors import (
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    PermissionDeniedError,
    UnavailableError,
    UnimplementedError,
)

RETRY_AFTER_SECONDS = 2.0


class ForeignTargetRefusedError(PermissionDeniedError):
    """The operator does not let the service ask this Triton."""

    default_reason = "FOREIGN_TARGET_NOT_ALLOWED"

    def __init__(self, target: str) -> None:
        message = (
            f"this service may not ask the Triton at {target}; the operator allows it with EVALFLEET_FOREIGN_TRITONS, "
            "a comma-separated list of host:port"
        )
        super().__init__(
            message,
            metadata={"target": target},
            field_violations=(FieldViolation("foreign.target", message),),
        )


class ForeignUnavailableError(UnavailableError):
    """The foreign Triton cannot be reached, or does not take requests for the model now."""

    default_reason = "FOREIGN_UNREACHABLE"

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, reason=reason, metadata=metadata, retry_after_seconds=RETRY_AFTER_SECONDS)


class ForeignModelMismatchError(FailedPreconditionError):
    """The foreign model does not take and give the tensors of the protocol that it was registered with."""

    default_reason = "FOREIGN_MODEL_MISMATCH"


class ForeignTokenizerError(FailedPreconditionError):
    """The folder that was named for the tokenizer holds none that can be used here."""

    default_reason = "FOREIGN_TOKENIZER_INVALID"


class ForeignTokenCountError(FailedPreconditionError):
    """The foreign model read another number of prompt tokens than was meant, so it answers something else."""

    default_reason = "FOREIGN_TOKEN_COUNT_MISMATCH"

    def __init__(self, *, expected: int, actual: int) -> None:
        cause = (
            "it seems to put a BOS of its own before the prompt's (double BOS)"
            if actual == expected + 1
            else "its tokenizer seems to be another one than that which the model was registered with"
        )
        super().__init__(
            f"the foreign model read {actual} prompt tokens, {expected} were meant: {cause}",
            metadata={"expected_tokens": str(expected), "actual_tokens": str(actual)},
        )


class ForeignAnswerError(InternalError):
    """What the foreign model sent cannot be an answer; it is never passed on as one."""

    default_reason = "FOREIGN_ANSWER_INVALID"


class ForeignUnsupportedError(UnimplementedError):
    """The foreign model's interface cannot do this exactly, and nothing here is ever a guess."""

    default_reason = "FOREIGN_UNSUPPORTED"


class ForeignLogprobMissingError(ForeignUnsupportedError):
    """The foreign model tells the log-probabilities of some tokens only, and a wanted one is not among them."""

    default_reason = "FOREIGN_LOGPROB_MISSING"

    def __init__(self, *, missing: Sequence[int], returned: int) -> None:
        super().__init__(
            f"continuations {list(missing)} are not among the {returned} next tokens whose log-probabilities the "
            "foreign model tells: they cannot be scored exactly. Register the checkpoint itself to score them",
            metadata={"missing": ",".join(map(str, missing)), "returned": str(returned)},
        )
