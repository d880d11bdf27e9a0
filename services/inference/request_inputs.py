"""The input tensors of requests to a causal language model, as the client sends them."""

from services.inference import contract
from services.inference.contract import Prompt
from services.inference.errors import as_fleet_errors
from services.inference.host_contract import CHECKPOINT
from services.inference.sampling import SamplingParameters, check_sampling_parameters
from services.inference.tensors import Array, flag_array, text_array


def prompt_inputs(prompt: Prompt, checkpoint: str | None = None) -> dict[str, Array]:
    """Return the tensors of a prompt or context, and of the checkpoint that shall read it at a checkpoint host."""
    inputs = {} if checkpoint is None else {CHECKPOINT: text_array(checkpoint)}
    if isinstance(prompt, str):
        return {**inputs, contract.TEXT_INPUT: text_array(prompt)}
    return {**inputs, contract.MESSAGES: text_array(contract.messages_to_json(prompt))}


def generation_inputs(
    prompt: Prompt,
    sampling: SamplingParameters,
    *,
    checkpoint: str | None = None,
    stream: bool,
    truncate_input: bool,
) -> dict[str, Array]:
    """Return the tensors of a generation request.

    Raises:
        FleetError: INVALID_SAMPLING_PARAMETERS.
    """
    with as_fleet_errors():
        check_sampling_parameters(sampling)
    inputs = {
        **prompt_inputs(prompt, checkpoint),
        contract.STREAM: flag_array(stream),
        contract.SAMPLING_PARAMETERS: text_array(sampling.to_json()),
        contract.EXCLUDE_INPUT_IN_OUTPUT: flag_array(True),
        contract.RETURN_FINISH_REASON: flag_array(True),
        contract.RETURN_NUM_INPUT_TOKENS: flag_array(True),
        contract.RETURN_NUM_OUTPUT_TOKENS: flag_array(True),
    }
    if truncate_input:
        inputs[contract.TRUNCATE_INPUT] = flag_array(True)
    return inputs
