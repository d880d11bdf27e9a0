"""What can go wrong when texts are made vectors."""

from typing import Final

from services.inference.model_loading import LoadingTerms
from services.runtime.errors import FailedPreconditionError, UnavailableError


class EncoderNotFoundError(FailedPreconditionError):
    """There is no sentence encoder, or the inference server refuses it; nothing is compared without one."""

    default_reason = "ENCODER_NOT_FOUND"


class EncoderUnavailableError(UnavailableError):
    """The sentence encoder takes no requests now."""

    default_reason = "ENCODER_UNAVAILABLE"


ENCODER_LOADING: Final = LoadingTerms("the sentence encoder", "encoder", EncoderNotFoundError, EncoderUnavailableError)
"""How the encoder is kept loaded."""
