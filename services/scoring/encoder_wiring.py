"""Puts together the scorer that compares what texts mean."""

from contextlib import AsyncExitStack

from services.inference.client import InferenceClient
from services.inference.control_key import read_control_key
from services.inference.public_encoder import locate_encoder
from services.scoring.encoding.triton_encoder import EncoderLimits, TritonTextEncoder
from services.scoring.scorers.semantic_similarity import SemanticSimilarity
from services.scoring.settings import ScoringSettings


async def open_similarity(settings: ScoringSettings, stack: AsyncExitStack) -> SemanticSimilarity:
    """Return the scorer; what it opens is closed with ``stack``. Triton and the encoder are needed when it is asked.

    Raises:
        StartupError: the key file cannot be read.
    """
    key = await read_control_key(settings.triton_key_file)
    client = await stack.enter_async_context(InferenceClient(settings.triton_target, model_control_key=key))
    limits = EncoderLimits(settings.encoder_max_tokens, settings.encoder_timeout_seconds)
    encoder = TritonTextEncoder(
        client, lambda: settings.similarity_encoder_path or locate_encoder(settings.encoder_path), limits
    )
    stack.push_async_callback(encoder.close)
    return SemanticSimilarity(encoder)
