"""Requests whose bytes are no message."""

from services.runtime.error_types import InvalidArgumentError


class MalformedRequestError(InvalidArgumentError):
    """The bytes of a request are no message of its method.

    Attributes:
        received: the bytes.
    """

    default_reason = "MALFORMED_REQUEST"

    def __init__(self, method: str, received: bytes) -> None:
        super().__init__(
            "the request is no valid message of this method; check that both sides use the same proto file and that "
            "texts are UTF-8",
            metadata={"method": method},
        )
        self.received = received
