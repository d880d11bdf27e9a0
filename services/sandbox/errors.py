"""What can go wrong with a sandbox itself."""

from services.runtime.errors import FailedPreconditionError, ResourceExhaustedError


class SandboxUnavailableError(FailedPreconditionError):
    """Programs cannot be contained here, so none is run. There is no way to run them without a sandbox."""

    default_reason = "SANDBOX_UNAVAILABLE"


class SandboxBusyError(ResourceExhaustedError):
    """Other processes took the processor for so long that nothing can be said of a program; run it again later."""

    default_reason = "SANDBOX_BUSY"
