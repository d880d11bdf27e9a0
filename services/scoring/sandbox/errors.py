"""What can go wrong with a sandbox itself."""

from services.runtime.errors import FailedPreconditionError


class SandboxUnavailableError(FailedPreconditionError):
    """Programs cannot be contained here, so none is run. There is no way to run them without a sandbox."""

    default_reason = "SANDBOX_UNAVAILABLE"
