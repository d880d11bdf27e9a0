"""The requests to a causal language model, as the client sends them."""

from functools import lru_cache
from typing import Final

from tritonclient.grpc import service_pb2 as kserve

from services.inference import contract
from services.inference.contract import Prompt
from services.inference.errors import as_fleet_errors
from services.inference.host_contract import CHECKPOINT
from services.inference.sampling import SamplingParameters, check_sampling_parameters
from services.inference.tensors import Array, add_text, flag_array, text_array, write_request

_REMEMBERED: Final = 256


def prompt_inputs(prompt: Prompt, checkpoint: str | None = None) -> dict[str, Array]:
    """Return the tensors of a prompt or context, and of the checkpoint that shall read it at a checkpoint host."""
    inputs = {} if checkpoint is None else {CHECKPOINT: text_array(checkpoint)}
    if isinstance(prompt, str):
        return {**inputs, contract.TEXT_INPUT: text_array(prompt)}
    return {**inputs, contract.MESSAGES: text_array(contract.messages_to_json(prompt))}


def generation_request(
    model: str,
    prompt: Prompt,
    sampling: SamplingParameters,
    *,
    checkpoint: str | None = None,
    stream: bool,
    truncate_input: bool,
) -> kserve.ModelInferRequest:
    """Return a request to generate, without an id.

    Raises:
        FleetError: INVALID_SAMPLING_PARAMETERS.
    """
    try:
        wishes = _remembered_wishes(model, sampling, checkpoint, stream, truncate_input)
    except TypeError:  # parameters that cannot be remembered, because they are not what they should be
        wishes = _wishes(model, sampling, checkpoint, stream, truncate_input)
    request = kserve.ModelInferRequest()
    request.CopyFrom(wishes)
    if isinstance(prompt, str):
        add_text(request, contract.TEXT_INPUT, prompt)
    else:
        add_text(request, contract.MESSAGES, contract.messages_to_json(prompt))
    return request


def _wishes(
    model: str, sampling: SamplingParameters, checkpoint: str | None, stream: bool, truncate_input: bool
) -> kserve.ModelInferRequest:
    """Return all of a request but its prompt; callers copy it, because most requests of an evaluation share it."""
    with as_fleet_errors():
        check_sampling_parameters(sampling)
    inputs = {
        contract.STREAM: flag_array(stream),
        contract.SAMPLING_PARAMETERS: text_array(sampling.to_json()),
        contract.EXCLUDE_INPUT_IN_OUTPUT: flag_array(True),
        contract.RETURN_FINISH_REASON: flag_array(True),
        contract.RETURN_NUM_INPUT_TOKENS: flag_array(True),
        contract.RETURN_NUM_OUTPUT_TOKENS: flag_array(True),
    }
    if checkpoint is not None:
        inputs[CHECKPOINT] = text_array(checkpoint)
    if truncate_input:
        inputs[contract.TRUNCATE_INPUT] = flag_array(True)
    return write_request(model, "", inputs)


_remembered_wishes = lru_cache(maxsize=_REMEMBERED, typed=True)(_wishes)
